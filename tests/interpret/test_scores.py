import json
import math

import numpy as np
import pytest
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.interpret import ExplanationConfig as Config
from art_sensreg.interpret import (
    explain,
    gini_sparsity,
    infidelity,
    input_gradient,
    integrated_gradients,
    max_sensitivity,
)
from art_sensreg.interpret.scores import METRICS
from tests.attacks.random_models import noisy_classifier
from tests.interpret.models import SHAPE, images, linear_classifier, smooth_classifier

LABELS = np.array([0, 1, 2, 1, 0])


def table(rows):
    return {(row.metric, row.saliency): row for row in rows}


def test_every_measure_is_scored_for_both_kinds_of_maps():
    rows = explain(smooth_classifier(clip_values=(0.0, 1.0)), images(), LABELS)
    assert [(row.metric, row.saliency) for row in rows] == [
        *((metric, kind) for kind in ("gradient", "integrated_gradients") for metric in list(METRICS)[:5]),
        ("gini", "gradient"),
        ("alignment", "gradient"),
    ]
    assert all(row.n == 5 and row.ci_low < row.value < row.ci_high for row in rows)
    assert {row.metric for row in rows if row.better == "higher"} == {"insertion", "gini", "alignment"}
    assert json.loads(json.dumps([row.to_dict() for row in rows], allow_nan=False))[0]["metric"] == "insertion"


def test_values_are_those_of_the_measures():
    classifier, x = smooth_classifier(), images()
    found = table(
        explain(classifier, x, np.eye(3)[LABELS], config=Config(seed=3, steps=5, sigma=0.2, radius=0.1, baseline=0.5))
    )
    gini = gini_sparsity(input_gradient(classifier, x, LABELS))
    row = found["gini", "gradient"]
    assert row.value == pytest.approx(gini.mean())
    assert row.ci_high - row.value == pytest.approx(1.96 * gini.std(ddof=1) / math.sqrt(5), rel=1e-3)
    slopes = integrated_gradients(classifier, x, LABELS, Config(baseline=0.5, steps=5), multiply_by_inputs=False)
    expected = infidelity(classifier, x, LABELS, slopes, config=Config(sigma=0.2, seed=3))
    assert found["infidelity", "integrated_gradients"].value == pytest.approx(expected.mean())

    def maps(*given):
        return integrated_gradients(*given, Config(baseline=0.5, steps=5))

    expected = max_sensitivity(classifier, x, LABELS, maps, config=Config(radius=0.1, seed=3))
    assert found["max_sensitivity", "integrated_gradients"].value == pytest.approx(expected.mean())


def test_a_linear_model_is_explained_perfectly():
    classifier, _ = linear_classifier()
    found = table(explain(classifier, images(), np.zeros(5, dtype=int)))
    for kind in ("gradient", "integrated_gradients"):
        assert found["infidelity", kind].value == pytest.approx(0, abs=1e-10)
        assert found["insertion", kind].value > found["deletion", kind].value
    assert found["max_sensitivity", "gradient"].value == 0


@pytest.mark.parametrize("n", [1, 5])
def test_a_constant_model_gives_no_nan(n):
    classifier, _ = linear_classifier(np.zeros((3, *SHAPE), dtype=np.float32))
    rows = explain(classifier, images(n), LABELS[:n])
    json.dumps([row.to_dict() for row in rows], allow_nan=False)
    assert all((row.ci_low is None) == (row.ci_high is None) == (n == 1) for row in rows)


def test_random_models_are_scored_alike_for_a_seed(digits):
    classifier = noisy_classifier(digits, samples=4)
    x, y = digits.x_test[:3], digits.y_test[:3]
    options = {"steps": 4, "samples": 3}
    first = explain(classifier, x, y, config=Config(**options))
    assert first == explain(classifier, x, y, config=Config(**options))
    assert first != explain(classifier, x, y, config=Config(seed=1, **options))
    assert explain(classifier, x[:1], y[:1], config=Config(**options))[0].n == 1


def test_scores_of_arts_own_classifier_do_not_depend_on_the_batch_size(make_classifier, digits):
    model = make_classifier("cnn-small", norm_layer="batch").model.train()
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), digits.input_shape, 10, device_type="cpu")
    x, y = digits.x_test[:6], digits.y_test[:6]
    whole, parts = (explain(classifier, x, y, config=Config(steps=4, batch_size=size)) for size in (128, 4))
    np.testing.assert_allclose([row.value for row in whole], [row.value for row in parts], rtol=1e-3, atol=1e-6)
    assert model.training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": images(2) + 1}, ValueError, "clip_values"),
        ({"x": images()[:0]}, ValueError, "at least one image"),
        ({"y": [0] * 4}, ValueError, "`y` has 4 labels"),
        ({"classifier": nn.Identity()}, TypeError, "PyTorchClassifier"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    given = {"classifier": linear_classifier(clip_values=(0.0, 1.0))[0], "x": images(), "y": LABELS, **arguments}
    with pytest.raises(error, match=message):
        explain(**given)
