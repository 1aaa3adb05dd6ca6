from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.certification.randomized_smoothing import PyTorchMACER, PyTorchRandomizedSmoothing, PyTorchSmoothMix
from torch import nn

from art_sensreg import Augmentation
from art_sensreg.augmented_data import AugmentedImages
from art_sensreg.benchmark.defences import TrainingSpec
from art_sensreg.benchmark.defences.from_art.smoothing import (
    CERTIFICATE_OPTIONS,
    MACER_OPTIONS,
    SMOOTHADV_FIXED_OPTIONS,
    SMOOTHADV_OPTIONS,
    SMOOTHING_OPTIONS,
    SMOOTHMIX_FIXED_OPTIONS,
    SMOOTHMIX_OPTIONS,
    RepairedSmoothAdv,
    RepairedSmoothing,
    RepairedSmoothMix,
    SmoothedModule,
    certified_radii,
    certify_smoothing,
    train_macer,
    train_smoothadv,
    train_smoothing,
    train_smoothmix,
)
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import accuracy, small_spec, trained
from tests.conftest import same_weights, weights_of

TRAINED = [
    (train_smoothing, SMOOTHING_OPTIONS),
    (train_macer, {**MACER_OPTIONS, "samples": 4, "lmbda": 1.0}),
    (train_smoothadv, {**SMOOTHADV_OPTIONS, "max_iter": 2}),
    (partial(train_smoothadv, kind=RepairedSmoothAdv), {**SMOOTHADV_FIXED_OPTIONS, "max_iter": 2}),
    (train_smoothmix, {**SMOOTHMIX_OPTIONS, "max_iter": 2}),
    (partial(train_smoothmix, kind=RepairedSmoothMix), {**SMOOTHMIX_FIXED_OPTIONS, "max_iter": 2}),
]


@pytest.mark.parametrize(("train", "options"), TRAINED[3:], ids=["smoothadv", "smoothmix", "smoothmix-fixed"])
def test_a_fit_for_each_epoch_warms_up_as_one_for_all(
    digits: Dataset, train: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec(digits, n=24, epochs=4, batch_size=12)
    once = weights_of(trained(train, spec, options))
    images = AugmentedImages(spec.dataset.x_train, Augmentation())  # as they are
    monkeypatch.setattr(TrainingSpec, "_augmented", lambda self: images)
    assert same_weights(once, weights_of(trained(train, spec, options)))
    assert images.drawn == 4


@pytest.mark.parametrize(("train", "options"), TRAINED)
def test_learns_and_is_the_same_for_the_same_seed(
    digits: Dataset, train: Any, options: dict[str, Any], capsys: Any
) -> None:
    spec = small_spec(digits, n=289, epochs=4)  # the last batch has one image
    first, second = (trained(train, spec, options) for _ in range(2))
    assert accuracy(spec, first.model) > 0.35
    assert same_weights(weights_of(first), weights_of(second))
    assert first.optimizer.param_groups[0]["lr"] < spec.learning_rate / 2
    assert capsys.readouterr().out == ""


@pytest.fixture
def linear() -> tuple[TrainingSpec, nn.Module, np.ndarray]:
    """A linear classifier of two classes, and the signed distance of each image to its hyperplane."""
    x = np.random.default_rng(0).uniform(0, 1, (60, 1, 2, 2)).astype(np.float32)
    weight = np.array([1.0, -2.0, 0.5, 1.0], dtype=np.float32)
    distance = x.reshape(60, 4) @ weight / np.linalg.norm(weight)
    y = (distance > 0).astype(np.int64)
    spec = small_spec(Dataset(name="linear", x_train=x, y_train=y, x_test=x, y_test=y))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[1].weight.data = torch.from_numpy(np.stack([-weight, weight]))
    return spec, model, distance


def test_radii_of_a_linear_classifier_are_its_distances(linear: tuple[TrainingSpec, nn.Module, np.ndarray]) -> None:
    spec, model, distance = linear
    x, y = spec.dataset.x_test, spec.dataset.y_test
    options = {"sigma": 0.25, "n0": 100, "n": 10_000, "alpha": 0.001}
    predictions, radii = certified_radii(spec, model, x, options)
    decided = predictions >= 0
    assert (predictions[decided] == y[decided]).all()
    assert decided[np.abs(distance) > 0.05].all()
    # Lower bounds; ten thousand draws know a distance of up to twice sigma within a few hundredths.
    assert (radii <= np.abs(distance)).mean() > 0.95
    near = decided & (np.abs(distance) < 0.5)
    assert near.sum() > 10
    assert (np.abs(distance) - radii)[near].max() < 0.05
    for eps in (0.1, 0.3):
        assert (certify_smoothing(spec, model, x, y, eps, options) <= (np.abs(distance) > eps)).all()
        assert not certify_smoothing(spec, model, x, 1 - y, eps, options).any()


def test_the_bound_is_clopper_pearsons(linear: tuple[TrainingSpec, nn.Module, np.ndarray]) -> None:
    spec, model, _ = linear
    smoothing = spec.estimator(RepairedSmoothing, model, torch.optim.SGD(model.parameters(), lr=0.1), alpha=0.05)
    assert smoothing._lower_confidence_bound(0, 10) == 0
    assert smoothing._lower_confidence_bound(10, 10) == pytest.approx(0.05 ** (1 / 10))
    # The tail of the binomial from 7 of 10 on, at the bound, is alpha.
    bound = smoothing._lower_confidence_bound(7, 10)
    draws = np.random.default_rng(0).binomial(10, bound, 200_000)
    assert (draws >= 7).mean() == pytest.approx(0.05, abs=0.003)
    assert smoothing._prediction_counts(spec.dataset.x_test[0], n=77, batch_size=10).sum() == 77


@pytest.mark.skipif(find_spec("statsmodels") is not None, reason="what ART does not declare is there")
def test_certify_as_shipped_lacks_a_package(linear: tuple[TrainingSpec, nn.Module, np.ndarray]) -> None:
    spec, model, _ = linear
    smoothing = spec.estimator(PyTorchRandomizedSmoothing, model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ModuleNotFoundError, match="statsmodels"):
        smoothing.certify(spec.dataset.x_test[:1], n=10)


def test_macers_parameters_cannot_be_read_as_shipped(linear: tuple[TrainingSpec, nn.Module, np.ndarray]) -> None:
    spec, model, _ = linear
    macer = spec.estimator(PyTorchMACER, model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(AttributeError, match="gauss_num"):
        macer.get_params()


def test_the_attack_of_smoothadv_climbs_within_its_l2_ball(digits: Dataset) -> None:
    spec = small_spec(digits)
    classifier = trained(train_smoothing, spec, SMOOTHING_OPTIONS)
    smoothing = spec.estimator(
        RepairedSmoothAdv, classifier.model, classifier.optimizer, epsilon=0.5, num_noise_vec=4, num_steps=4
    )
    x, y = torch.from_numpy(digits.x_test[:50]), torch.from_numpy(digits.y_test[:50])
    noise = torch.randn(4, *x.shape) * 0.25
    adversarial = smoothing._ascend(x, y, noise, eps=0.5).detach()
    sizes = (adversarial - x).flatten(1).norm(dim=1)
    assert sizes.max() <= 0.5 + 1e-5
    assert sizes.min() > 0.1
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1

    def loss(images: torch.Tensor) -> float:
        logits = classifier.model((images + noise).flatten(0, 1))
        return nn.functional.cross_entropy(logits, y.repeat(4)).item()

    assert loss(adversarial) > 1.2 * loss(x)


@pytest.mark.parametrize(("kind", "moves"), [(PyTorchSmoothMix, False), (RepairedSmoothMix, True)])
def test_the_attack_of_smoothmix_moves_only_if_repaired(digits: Dataset, kind: Any, moves: bool) -> None:
    spec = small_spec(digits)
    model = spec.new_model()
    smoothing = spec.estimator(kind, model, torch.optim.SGD(model.parameters(), lr=0.1), num_steps=4)
    x, y = torch.from_numpy(digits.x_test[:20]), torch.from_numpy(digits.y_test[:20])
    start, adversarial = smoothing._smooth_mix_pgd_attack(x, y, [torch.zeros_like(x)], 1.0)
    assert torch.equal(start, x)
    assert bool(((adversarial - x).flatten(1).norm(dim=1) > 0.01).all()) == moves
    assert smoothing.alpha == 0.001


def test_certified_images_stay_right_under_noise_and_shift(digits: Dataset) -> None:
    spec = small_spec(digits)
    model = trained(train_smoothing, spec, SMOOTHING_OPTIONS).model
    x, y = digits.x_test[:60], digits.y_test[:60]
    certified = certify_smoothing(spec, model, x, y, 0.2, CERTIFICATE_OPTIONS)
    assert certified.any()
    shift = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    shift *= 0.2 / np.linalg.norm(shift.reshape(60, -1), axis=1)[:, None, None, None]
    predictions, _ = certified_radii(spec, model, x + shift, {**CERTIFICATE_OPTIONS, "n": 3000})
    assert ((predictions == y) | (predictions == -1))[certified].all()


def test_the_smoothed_module_draws_anew() -> None:
    module = SmoothedModule(nn.Identity(), sigma=0.5)
    x = torch.zeros(4)
    torch.manual_seed(0)
    first, second = module(x), module(x)
    torch.manual_seed(0)
    assert torch.equal(module(x), first)
    assert not torch.equal(first, second)
