from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainerCertifiedIBPPyTorch
from art.estimators.certification.deep_z import ZonoBounds
from art.estimators.certification.interval import PyTorchIBPClassifier

from art_sensreg.benchmark.defences.from_art.interval_bounds import (
    DEEPZ_OPTIONS,
    IBP_FIXED_OPTIONS,
    IBP_OPTIONS,
    _convert,
    _rising,
    box_zonotope,
    certify_deepz,
    certify_ibp,
    train_deepz,
    train_deepz_fixed,
    train_ibp,
    train_ibp_fixed,
)
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.test_instahide import accuracy, small_task, trained
from tests.conftest import same_weights, weights_of

IBP = {**IBP_FIXED_OPTIONS, "least_steps": 300, "final_weight": 0.2}
ROWS = [(train_ibp_fixed, IBP), (train_deepz_fixed, {**DEEPZ_OPTIONS, "max_iter": 2})]


def broken(task: TrainingSpec, model: torch.nn.Module, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    classifier = task.classifier(model)
    attack = ProjectedGradientDescent(
        classifier, eps=task.eps, eps_step=task.eps / 4, max_iter=40, num_random_init=2, batch_size=500, verbose=False
    )
    adversarial = attack.generate(x, np.eye(10, dtype=np.float32)[y])
    wrong: np.ndarray = (classifier.predict(adversarial).argmax(1) != y) | (classifier.predict(x).argmax(1) != y)
    return wrong


@pytest.mark.parametrize("model", ["mlp", "cnn-small"])
@pytest.mark.parametrize(("train", "options"), ROWS)
def test_learns_and_no_certified_image_is_broken(
    digits: Dataset, model: str, train: Any, options: dict[str, Any], capsys: Any
) -> None:
    task = small_task(digits, n=400, model=model, eps=0.02, epochs=5, learning_rate=0.003)
    classifier = trained(train, task, options)
    assert accuracy(task, classifier.model) > 0.4
    x, y = digits.x_test[:150], digits.y_test[:150]
    wrong = broken(task, classifier.model, x, y)
    for certify in (certify_ibp, certify_deepz):
        certified = certify(task, classifier.model, x, y, task.eps, {"points": 150})
        assert certified.shape == (150,)
        assert certified.dtype == bool
        assert not (certified & wrong).any()
    assert certified.sum() > 15  # by zonotopes, which certify something of both
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("certify", [certify_ibp, certify_deepz])
def test_a_box_of_no_size_is_the_prediction(digits: Dataset, certify: Any) -> None:
    task = small_task(digits, model="cnn-small")
    model = task.new_model()
    y = task.classifier(model).predict(digits.x_test[:20]).argmax(axis=1)
    assert certify(task, model, digits.x_test[:20], y, 0.0, {"points": 20}).all()
    assert not certify(task, model, digits.x_test[:20], (y + 1) % 10, 0.0, {"points": 20}).any()
    assert len(certify_deepz(task, model, digits.x_test[:20], y, 0.0, {"points": 5})) == 5


def test_convolved_intervals_have_the_unrolled_bounds(digits: Dataset) -> None:
    task = small_task(digits, model="cnn-small")
    model = task.new_model()
    bounds, outputs = [], []
    for convolved in (False, True):
        certifier = _convert(task, PyTorchIBPClassifier, model, convolved)
        certifier.model.set_forward_mode("abstract")
        bounds.append(certifier.predict_intervals(digits.x_test[:10], bounds=0.1, limits=[0.0, 1.0]))
        certifier.model.set_forward_mode("concrete")
        outputs.append(certifier.predict(digits.x_test[:10]))
    np.testing.assert_allclose(bounds[0], bounds[1], atol=1e-5)
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    np.testing.assert_allclose(outputs[1], task.classifier(model).predict(digits.x_test[:10]), atol=1e-5)


def test_the_zonotope_of_a_box_is_arts_and_stays_within_the_box() -> None:
    inside = np.random.default_rng(0).uniform(0.2, 0.8, (1, 3, 3))
    centre, terms = box_zonotope(inside, 0.1)
    arts = ZonoBounds().pre_process(cent=inside, eps=np.eye(9) * 0.1)
    np.testing.assert_allclose(centre[0], arts[0])
    np.testing.assert_allclose(terms, arts[1])
    centre, terms = box_zonotope(np.array([0.0, 1.0, 0.5]), 0.2)
    reach = np.abs(terms).sum(axis=0)
    np.testing.assert_allclose([(centre - reach)[0], (centre + reach)[0]], [[0, 0.8, 0.3], [0.2, 1, 0.7]])


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.4.0", reason="numpy took such arrays before 2.4")
def test_zonotopes_as_shipped_crash(digits: Dataset) -> None:
    with pytest.raises(NotApplicable, match=r"sequence.*see art-deepz-fixed"):
        trained(train_deepz, small_task(digits, n=64, epochs=1), DEEPZ_OPTIONS)


def test_schedules(digits: Dataset) -> None:
    task = small_task(digits, epochs=10)
    arts = AdversarialTrainerCertifiedIBPPyTorch.initialise_default_scheduler(0.0, 0.5, 10)
    shipped, fixed = (_rising(task, options, 0.5) for options in (IBP_OPTIONS, IBP_FIXED_OPTIONS))
    assert [shipped.step() for _ in range(10)] == pytest.approx([arts.step() for _ in range(10)])
    steps = [fixed.step() for _ in range(10)]
    assert steps[:2] == [0.0, 0.0]
    assert steps[4] == pytest.approx(0.5 * 3 / 7)
    assert steps[8:] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("train", "options"), ROWS)
def test_same_seed_same_weights(digits: Dataset, train: Any, options: dict[str, Any]) -> None:
    task = small_task(digits, n=64, epochs=2)
    first, second = (trained(train, task, options) for _ in range(2))
    assert same_weights(weights_of(first), weights_of(second))


@pytest.mark.parametrize("change", [{"activation": "gelu"}, {"norm_layer": "batch"}, {"model": "resnet-small"}])
def test_models_that_art_cannot_convert(digits: Dataset, change: dict[str, str]) -> None:
    task = small_task(digits, **{"model": "cnn-small", **change})
    for train in (train_ibp, train_ibp_fixed, train_deepz, train_deepz_fixed):
        with pytest.raises(NotApplicable, match="Conv2d, Linear and ReLU"):
            train(task, {**IBP, **DEEPZ_OPTIONS})


def test_sizes_that_do_not_fit() -> None:
    x, y = np.zeros((10, 1, 28, 28), dtype=np.float32), np.arange(10)
    large = Dataset(name="large", x_train=x, y_train=y, x_test=x, y_test=y)
    task = small_task(large, model="cnn-small")
    with pytest.raises(NotApplicable, match="million entries"):
        train_ibp(task, IBP_OPTIONS)
    with pytest.raises(NotApplicable, match="error terms"):
        train_deepz(task, DEEPZ_OPTIONS)
    assert certify_ibp(task, task.new_model(), x, y, 0.0, {}).sum() == 1  # one class for ten equal images
