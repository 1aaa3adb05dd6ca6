"""The change of units between a user and attacks that know only images in [0, 1]."""

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.autoattack.rescale import RescaledModel, attackable_shape, within_budget

ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("norm", ORDER)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_what_is_stored_keeps_the_budget_and_the_box_exactly(dtype, norm, low, high):
    rng, width = np.random.default_rng(0), high - low
    x = np.clip((low + width * rng.random((40, 3, 5, 5))).astype(dtype), low, high)
    perturbed = x.astype(np.float64) + width * rng.normal(scale=0.2, size=x.shape)
    eps = width * {"linf": 0.1, "l2": 1.0, "l1": 7.0}[norm]
    stored = within_budget(x, perturbed, eps, norm, low, high)
    assert stored.dtype == dtype
    delta = (stored.astype(np.float64) - x).reshape(40, -1)
    size = np.linalg.norm(delta, ord=ORDER[norm], axis=1)
    assert size.max() <= eps
    assert low <= stored.min()
    assert stored.max() <= high
    # The budget is used up to the rounding of each value, and to what the box clips.
    unrounded = np.clip(perturbed, low, high).reshape(40, -1) - x.astype(np.float64).reshape(40, -1)
    free = np.linalg.norm(unrounded, ord=ORDER[norm], axis=1)
    spacing = np.spacing(np.maximum(np.abs(x), np.abs(stored))).astype(np.float64).reshape(40, -1)
    assert (size >= np.minimum(eps, free) * (1 - 1e-9) - np.linalg.norm(spacing, ord=ORDER[norm], axis=1)).all()


def test_images_within_the_budget_stay_as_they_are():
    x = np.random.default_rng(0).random((10, 1, 4, 4)).astype(np.float32)
    for norm in ORDER:
        perturbed = np.clip(x + np.float32(0.01), 0, 1)
        assert np.array_equal(within_budget(x, perturbed.astype(np.float64), 1.0, norm, 0.0, 1.0), perturbed)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_restoring_undoes_rescaling(low, high):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (12,), 3, clip_values=(low, high), device_type="cpu")
    x = (low + (high - low) * np.random.default_rng(0).random((6, 12))).astype(np.float32)
    model = RescaledModel(classifier, (1, 3, 4))
    units = model.rescale(x)
    assert units.shape == (6, 1, 3, 4)
    assert units.dtype == np.float32
    np.testing.assert_allclose(units.reshape(6, 12), (x - low) / (high - low), atol=1e-6)
    np.testing.assert_allclose(model.restore(x, units, 1e-3 * model.width, "linf"), x, atol=2e-7 * model.width)
    logits = model(torch.from_numpy(units)).detach().numpy()
    np.testing.assert_allclose(logits, classifier.predict(x), atol=2e-5 * model.width)


def test_logits_can_be_written_to():
    classifier = PyTorchClassifier(
        nn.Flatten(), nn.CrossEntropyLoss(), (1, 1, 4), 4, clip_values=(0.0, 1.0), device_type="cpu"
    )
    x = torch.full((1, 1, 1, 4), 0.5)
    RescaledModel(classifier, (1, 1, 4))(x)[:] = -torch.inf
    assert (x == 0.5).all()


def test_attackable_shapes_stay_and_others_keep_their_number_of_values():
    for shape in [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 224, 224), (2, 7, 3)]:
        assert attackable_shape(shape, windows=False) == shape
        assert attackable_shape(shape, windows=True) == shape
    assert attackable_shape((1, 12, 12), windows=False) == (1, 12, 12)
    assert attackable_shape((64,), windows=False) == (1, 8, 8)
    assert attackable_shape((28, 28), windows=True) == (1, 28, 28)
    assert attackable_shape((1, 2, 2), windows=True) is None
    for shape in [(3, 12, 12), (1, 24, 24), (2, 4, 9), (13,), (2, 3, 4, 5), (4, 6)]:
        channels, height, width = attackable_shape(shape, windows=True)
        assert channels * height * width == np.prod(shape)
        assert channels == (shape[0] if len(shape) == 3 else 1)


def test_square_runs_on_every_shape_that_it_is_given():
    package = pytest.importorskip("pyautoattack")
    for norm in ("L2", "L1"):
        for shape in [(1, size, size) for size in range(3, 27)] + [(1, 4, 9), (1, 9, 4), (13,), (29,), (1, 6, 1)]:
            channels, height, width = attackable_shape(shape, windows=True)
            model = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 3))
            x = torch.rand(2, channels, height, width)
            attack = package.AutoAttack(model, norm=norm, eps=0.01, version="custom", attacks=["square"], seed=0)
            attack.square.n_queries = 3
            perturbed, _ = attack.run_standard_evaluation(x, model(x).argmax(1))
            assert torch.isfinite(perturbed).all()
