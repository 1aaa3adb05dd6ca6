import random

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.interpret import ExplanationConfig as Config
from art_sensreg.interpret import (
    alignment,
    gini_sparsity,
    infidelity,
    input_gradient,
    insertion_area,
    integrated_gradients,
    max_sensitivity,
)
from tests.interpret.models import SHAPE, images, linear_classifier, smooth_classifier

LABELS = np.zeros(5, dtype=int)


def test_infidelity_of_a_linear_model():
    classifier, _ = linear_classifier()
    x = images()
    for maps in (
        input_gradient(classifier, x, LABELS),
        integrated_gradients(classifier, x, LABELS, multiply_by_inputs=False),
    ):
        np.testing.assert_allclose(infidelity(classifier, x, LABELS, maps), 0.0, atol=1e-10)
        np.testing.assert_allclose(infidelity(classifier, x, LABELS, maps, relative=True), 0.0, atol=1e-6)


@pytest.mark.parametrize("n", [1, 3])
def test_infidelity_of_a_wrong_map_is_its_squared_error(n):
    # E (I . d)^2 = sigma^2 ||d||^2 for the error d of the map.
    classifier, weights = linear_classifier()
    x = images(n)
    error = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    found = infidelity(classifier, x, [0] * n, weights[0] + error, config=Config(sigma=0.3, samples=4000))
    np.testing.assert_allclose(found, 0.09 * (error**2).sum((1, 2, 3)), rtol=0.1)
    # The noise is the same, so that without a map the share is exactly 1, and with the doubled slopes too.
    for maps in (np.zeros_like(x), np.broadcast_to(2 * weights[0], x.shape)):
        np.testing.assert_allclose(infidelity(classifier, x, [0] * n, maps, relative=True), 1.0, rtol=1e-5)


def test_relative_infidelity_does_not_see_the_scale_of_the_logits():
    classifier = smooth_classifier()
    x = images()
    values = []
    for _ in range(2):
        maps = input_gradient(classifier, x, LABELS)
        values.append([infidelity(classifier, x, LABELS, maps, relative=share) for share in (False, True)])
        classifier.model[-1].weight.data.mul_(0.1)
        classifier.model[-1].bias.data.mul_(0.1)
    np.testing.assert_allclose(values[1][0], 0.01 * values[0][0], rtol=1e-3)
    np.testing.assert_allclose(values[1][1], values[0][1], rtol=1e-3)
    assert np.all(values[0][1] > 0)


def test_max_sensitivity_grows_with_radius_and_samples():
    x = images()
    classifier, _ = linear_classifier()
    np.testing.assert_array_equal(max_sensitivity(classifier, x, LABELS), np.zeros(5))
    curved = smooth_classifier()
    small, large = (max_sensitivity(curved, x, LABELS, config=Config(radius=radius)) for radius in (0.02, 0.2))
    assert np.all((small > 0) & (small < large))
    more = max_sensitivity(curved, x, LABELS, config=Config(radius=0.2, samples=20))
    assert np.mean(more) > np.mean(large)


@pytest.mark.parametrize("n", [1, 4])
def test_max_sensitivity_is_the_maximum_of_a_loop(n):
    x, scale = images(n), 2.0

    def squared(classifier, rows, labels):
        assert len(labels) == len(rows)
        assert np.all(labels == 1)
        return scale * rows**2

    found = max_sensitivity(linear_classifier()[0], x, [1] * n, squared, config=Config(radius=0.1, samples=6, seed=3))
    noise = 0.1 * (2 * np.random.default_rng(3).random((n * 6, *SHAPE), dtype=np.float32) - 1)
    for row in range(n):
        changes = ((x[row] + noise[6 * row : 6 * row + 6]) ** 2 - x[row] ** 2).reshape(6, -1)
        expected = np.linalg.norm(changes, axis=1).max() / np.linalg.norm(x[row] ** 2)
        assert found[row] == pytest.approx(expected, rel=1e-5)


def test_noise_depends_on_the_seed_alone():
    classifier, x = smooth_classifier(), images()
    maps = np.zeros_like(x)
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
    for measure in (
        lambda **given: infidelity(classifier, x, LABELS, maps, Config(**given)),
        lambda **given: max_sensitivity(classifier, x, LABELS, config=Config(radius=0.2, **given)),
    ):
        first = measure()
        torch.rand(2)
        np.testing.assert_array_equal(first, measure())
        np.testing.assert_allclose(first, measure(batch_size=1), rtol=1e-4)
        np.testing.assert_allclose(first, measure(batch_size=25), rtol=1e-4)
        assert np.all(first != measure(seed=1))
        torch.set_rng_state(torch.tensor(before[0], dtype=torch.uint8))
    assert (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()) == before


def test_the_gini_index_is_the_mean_difference_of_all_pairs():
    equal, single = np.full((1, 8), 3.0), np.eye(8)[:1] * -2
    assert gini_sparsity(equal) == 0
    assert gini_sparsity(single) == pytest.approx(1 - 1 / 8)
    assert gini_sparsity(np.zeros((1, 8))) == 0
    # The mean absolute difference of all pairs, by the mean twice.
    maps = np.random.default_rng(0).normal(size=(6, 3, 5, 5))
    flat = np.abs(maps).reshape(6, -1)
    pairs = np.abs(flat[:, :, None] - flat[:, None]).mean((1, 2)) / (2 * flat.mean(1))
    np.testing.assert_allclose(gini_sparsity(maps), pairs)
    np.testing.assert_allclose(gini_sparsity(1e-30 * maps), pairs)
    np.testing.assert_allclose(gini_sparsity(maps.astype(np.float32)), pairs, rtol=1e-5)


def test_alignment_is_the_absolute_cosine():
    x = images()
    np.testing.assert_allclose(alignment(x, -3 * x), 1.0)
    turned = np.stack([x[:, 1], -x[:, 0]], axis=1)
    np.testing.assert_allclose(alignment(x, turned), 0.0, atol=1e-7)
    np.testing.assert_allclose(
        alignment(x, 5 * x, normalise=False), np.linalg.norm(x.reshape(5, -1), axis=1), rtol=1e-6
    )
    for normalise in (True, False):
        np.testing.assert_array_equal(alignment(x, np.zeros_like(x), normalise), np.zeros(5))
        np.testing.assert_array_equal(alignment(np.zeros_like(x), x, normalise), np.zeros(5))


def test_measures_of_a_model_that_is_constant():
    classifier, _ = linear_classifier(np.zeros((3, *SHAPE), dtype=np.float32))
    x = images()
    zeros = input_gradient(classifier, x, LABELS)
    assert not zeros.any()
    np.testing.assert_allclose(insertion_area(classifier, x, LABELS, zeros), 1 / 3, rtol=1e-6)
    for share in (True, False):
        np.testing.assert_array_equal(infidelity(classifier, x, LABELS, zeros, relative=share), np.zeros(5))
    np.testing.assert_array_equal(infidelity(classifier, x, LABELS, x, relative=True), np.ones(5))
    np.testing.assert_array_equal(max_sensitivity(classifier, x, LABELS), np.zeros(5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, x: infidelity(c, x, LABELS, x[:2]), "`saliency` has shape"),
        (lambda c, x: max_sensitivity(c, x, LABELS, lambda *given: np.ones(3)), "`saliency` has shape"),
        (lambda c, x: gini_sparsity(x / 0), "`saliency` has NaN"),
        (lambda c, x: gini_sparsity(np.ones(3)), r"expected \(n, ...\)"),
        (lambda c, x: alignment(x, x[:, :1]), "`gradient` has shape"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(linear_classifier()[0], images())


def test_infidelity_of_a_random_model_is_not_that_of_its_draws():
    """A linear model whose draws are shifted by noise: its gradient predicts every change exactly."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, x):
            return self.linear(x) + 5 * torch.randn(len(x), 2)

    classifier = SensRegClassifier(Shifted(), nn.CrossEntropyLoss(), (4,), 2, device_type="cpu")
    x, y = np.random.default_rng(0).random((6, 4), dtype=np.float32), np.zeros(6, dtype=int)
    maps = np.tile(classifier.model.linear.weight[0].detach().numpy(), (6, 1))
    assert infidelity(classifier, x, y, maps, Config(samples=4)).max() < 1e-8
