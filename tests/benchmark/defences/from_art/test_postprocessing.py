from __future__ import annotations

import numpy as np
import pytest
import torch
from art.attacks.evasion import SquareAttack
from art.defences.postprocessor import HighConfidence, ReverseSigmoid
from numpy.exceptions import AxisError

from art_sensreg.benchmark.defences import TrainingSpec
from art_sensreg.benchmark.defences.from_art.postprocessing import (
    POSTPROCESSING,
    Probabilities,
    counted_queries,
    postprocessed_classifier,
)
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.target import make_target
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import small_spec

BY_NAME = {defence.name: defence for defence in POSTPROCESSING}
KEEP_THE_DECISION = ("art-reverse-sigmoid", "art-high-confidence", "art-rounded", "art-class-labels-fixed")


@pytest.fixture
def undefended(digits: Dataset) -> tuple[TrainingSpec, SensRegClassifier]:
    spec = small_spec(digits, epochs=10)
    classifier = spec.classifier()
    classifier.fit(spec.dataset.x_train, spec.dataset.y_train, nb_epochs=10, batch_size=32, seed=0)
    return spec, classifier


def scores(name: str, undefended: tuple[TrainingSpec, SensRegClassifier], x: np.ndarray) -> np.ndarray:
    spec, classifier = undefended
    defence = BY_NAME[name]
    return postprocessed_classifier(spec, classifier.model, defence.postprocessing.make(defence.options)).predict(x)


@pytest.mark.parametrize("name", BY_NAME)
def test_scores_change_and_gradients_do_not(
    digits: Dataset, undefended: tuple[TrainingSpec, SensRegClassifier], name: str
) -> None:
    spec, classifier = undefended
    defence, x = BY_NAME[name], digits.x_test[:40]
    y = np.eye(10, dtype=np.float32)[digits.y_test[:40]]
    defended = postprocessed_classifier(spec, classifier.model, defence.postprocessing.make(defence.options))
    plain = torch.softmax(torch.from_numpy(classifier.predict(x)), dim=1).numpy()
    answered = defended.predict(x)
    assert answered.shape == plain.shape
    assert answered.dtype == np.float32
    assert np.isfinite(answered).all()
    assert np.abs(answered - plain).max() > 1e-4
    assert answered.min() >= 0
    np.testing.assert_allclose(defended.loss_gradient(x, y), classifier.loss_gradient(x, y), atol=1e-5)
    assert (defence.postprocessing.answers > 1) == (not np.array_equal(answered, defended.predict(x)))


@pytest.mark.parametrize("name", KEEP_THE_DECISION)
def test_the_decision_stays(digits: Dataset, undefended: tuple[TrainingSpec, SensRegClassifier], name: str) -> None:
    x = digits.x_test[:200]
    decided = undefended[1].predict(x)
    plain = torch.softmax(torch.from_numpy(decided), dim=1).numpy()
    clear = np.sort(plain, axis=1)[:, -1] - np.sort(plain, axis=1)[:, -2] > 0.1
    clear &= plain.max(axis=1) > 0.3
    answered = scores(name, undefended, x)
    assert clear.sum() > 100
    assert (answered.argmax(axis=1) == decided.argmax(axis=1))[clear].all()


def test_what_they_do_to_logits(digits: Dataset, undefended: tuple[TrainingSpec, SensRegClassifier]) -> None:
    """Why probabilities stand before them."""
    logits = undefended[1].predict(digits.x_test)
    on_logits = ReverseSigmoid()(logits)
    ties = (on_logits == on_logits.max(axis=1, keepdims=True)).sum(axis=1) > 1
    assert ties.mean() > 0.1
    assert (HighConfidence()(logits)[logits < 0] == 0).all()


def test_class_labels_as_shipped_mix_the_classes_of_the_batch(
    digits: Dataset, undefended: tuple[TrainingSpec, SensRegClassifier]
) -> None:
    x = digits.x_test[:100]
    decided = undefended[1].predict(x).argmax(axis=1)
    shipped, fixed = (scores(name, undefended, x) for name in ("art-class-labels", "art-class-labels-fixed"))
    assert (shipped.sum(axis=1) > 1).all()
    assert (shipped.argmax(axis=1) == decided).mean() < 0.3
    np.testing.assert_array_equal(fixed, np.eye(10, dtype=np.float32)[decided])


def test_probabilities_keep_the_weights(undefended: tuple[TrainingSpec, SensRegClassifier]) -> None:
    model = undefended[1].model
    assert Probabilities(model).model is model


def test_queries_are_counted(digits: Dataset, undefended: tuple[TrainingSpec, SensRegClassifier]) -> None:
    classifier = undefended[1]
    x, y = digits.x_test[:20], np.eye(10, dtype=np.float32)[digits.y_test[:20]]
    attack = SquareAttack(classifier, eps=0.1, max_iter=5, nb_restarts=1, verbose=False)
    with counted_queries(classifier) as queries:
        attack.generate(x, y)
    # ART asks about three times an iteration: for the candidates, and twice to see which images are done.
    assert 20 * 2 <= queries.count <= 20 * 25
    before = queries.count
    classifier.predict(x)
    assert queries.count == before
    assert "predict" not in vars(classifier)


def test_counts_nest_and_survive_errors(undefended: tuple[TrainingSpec, SensRegClassifier]) -> None:
    _, classifier = undefended
    x = np.zeros((4, 1, 8, 8), dtype=np.float32)
    with counted_queries(classifier) as outer:
        with counted_queries(classifier) as inner:
            classifier.predict(x, batch_size=2)
        with pytest.raises(AxisError), counted_queries(classifier):
            classifier.predict(x).argmax(axis=7)
    assert (outer.count, inner.count, outer.calls) == (8, 4, 2)
    assert "predict" not in vars(classifier)


def test_random_answers_are_scored_by_their_mean(
    digits: Dataset, undefended: tuple[TrainingSpec, SensRegClassifier]
) -> None:
    spec, classifier = undefended
    defence = DEFENCES["art-output-noise"]
    target = make_target(spec, classifier, defence, defence.options)
    x, y = digits.x_test[:100], digits.y_test[:100]
    truth = classifier.predict(x).argmax(axis=1) == y
    several = np.stack([target.score(x, y, seed=0).correct for _ in range(8)])
    single = np.stack([target.default.predict(x).argmax(axis=1) == y for _ in range(8)])
    assert (several.all(axis=0) != truth).mean() < (single.all(axis=0) != truth).mean() / 2
