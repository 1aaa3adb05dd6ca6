"""DeepZ zonotopes: what is certified, the boxes, and what crashes or does not fit as shipped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from art.estimators.certification.deep_z import ZonoBounds

from art_sensreg.benchmark.defences import NotApplicable
from art_sensreg.benchmark.defences.from_art.interval_bounds import certify_ibp
from art_sensreg.benchmark.defences.from_art.zonotopes import (
    DEEPZ_OPTIONS,
    box_zonotope,
    certify_deepz,
    train_deepz,
    train_deepz_fixed,
)
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import accuracy, broken, small_spec, trained
from tests.conftest import same_weights, weights_of

OPTIONS = {**DEEPZ_OPTIONS, "max_iter": 2}


@pytest.mark.parametrize("model", ["mlp", "cnn-small"])
def test_learns_and_no_certified_image_is_broken(digits: Dataset, model: str, capsys: Any) -> None:
    spec = small_spec(digits, n=400, model=model, eps=0.02, epochs=5, learning_rate=0.003)
    classifier = trained(train_deepz_fixed, spec, OPTIONS)
    assert accuracy(spec, classifier.model) > 0.4
    x, y = digits.x_test[:150], digits.y_test[:150]
    wrong = broken(spec, classifier.model, x, y)
    for certify in (certify_ibp, certify_deepz):
        certified = certify(spec, classifier.model, x, y, spec.eps, {"points": 150})
        assert certified.shape == (150,)
        assert certified.dtype == bool
        assert not (certified & wrong).any()
    assert certified.sum() > 15
    assert capsys.readouterr().out == ""


def test_a_box_of_no_size_is_the_prediction(digits: Dataset) -> None:
    spec = small_spec(digits, model="cnn-small")
    model, x = spec.new_model(), digits.x_test[:20]
    y = spec.classifier(model).predict(x).argmax(axis=1)
    assert certify_deepz(spec, model, x, y, 0.0, {"points": 20}).all()
    assert not certify_deepz(spec, model, x, (y + 1) % 10, 0.0, {"points": 20}).any()
    assert len(certify_deepz(spec, model, x, y, 0.0, {"points": 5})) == 5


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
        trained(train_deepz, small_spec(digits, n=64, epochs=1), DEEPZ_OPTIONS)


def test_the_same_seed_gives_the_same_weights(digits: Dataset) -> None:
    spec = small_spec(digits, n=64, epochs=2)
    first, second = (trained(train_deepz_fixed, spec, OPTIONS) for _ in range(2))
    assert same_weights(weights_of(first), weights_of(second))


def test_zonotopes_of_large_images_do_not_fit() -> None:
    x, y = np.zeros((10, 1, 28, 28), dtype=np.float32), np.arange(10)
    spec = small_spec(Dataset(name="large", x_train=x, y_train=y, x_test=x, y_test=y), model="cnn-small")
    with pytest.raises(NotApplicable, match="error terms"):
        train_deepz(spec, DEEPZ_OPTIONS)
