import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.interpret import ExplanationConfig as Config
from art_sensreg.interpret import blurred, deletion_area, input_gradient, insertion_area, integrated_gradients
from tests.interpret.models import MASK, images, linear_classifier

LABELS = np.zeros(5, dtype=int)


def softmax_area(weights, x, label, order, insert):
    """The area by a loop over single pixels, for logits `W x` and baseline 0."""
    heights = []
    for count in range(len(order) + 1):
        chosen = np.zeros(MASK.shape, dtype=bool)
        for pixel in order[:count]:
            chosen[np.unravel_index(pixel, MASK.shape)] = True
        logits = (weights * np.where(chosen == insert, x, 0)).sum((1, 2, 3))
        heights.append(np.exp(logits[label]) / np.exp(logits).sum())
    return sum((heights[i] + heights[i + 1]) / 2 / len(order) for i in range(len(order)))


def with_order(order):
    """A map of two channels, of either sign, that names the pixels in this order."""
    strengths = np.empty(16)
    strengths[order] = np.arange(16, 0, -1)
    return np.stack([-strengths.reshape(4, 4) / 4, strengths.reshape(4, 4)]).astype(np.float32)


@pytest.mark.parametrize(("area", "insert"), [(insertion_area, True), (deletion_area, False)])
def test_areas_are_those_of_a_loop(area, insert):
    classifier, weights = linear_classifier()
    x, generator = images(), np.random.default_rng(0)
    orders = [generator.permutation(16) for _ in x]
    maps = np.stack([with_order(order) for order in orders])
    expected = [softmax_area(weights, image, 0, order, insert) for image, order in zip(x, orders, strict=True)]
    for batch_size in (2, 128):
        found = area(classifier, x, LABELS, maps, Config(batch_size=batch_size))
        assert found.shape == (5,)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("area", "sign"), [(insertion_area, 1), (deletion_area, -1)])
def test_the_right_explanation_beats_a_random_and_the_inverted_one(area, sign):
    classifier, _ = linear_classifier()
    x = images()
    right = input_gradient(classifier, x, LABELS)
    assert np.all((np.abs(right) > 0) == MASK)
    noise = np.random.default_rng(0).random(x.shape)
    values = [sign * area(classifier, x, LABELS, maps) for maps in (right, noise, 4 - right)]
    assert np.all(values[0] > values[1])
    assert np.all(values[1] > values[2])
    assert np.all(values[0] >= sign * area(classifier, x, LABELS, np.zeros_like(x)))


def test_few_steps_change_several_pixels_at_once():
    classifier, weights = linear_classifier()
    x = images()
    maps = input_gradient(classifier, x, LABELS)
    ends = [softmax(weights, part)[:, 0] for part in (np.zeros_like(x), x)]
    np.testing.assert_allclose(
        insertion_area(classifier, x, LABELS, maps, Config(steps=1)), (ends[0] + ends[1]) / 2, rtol=1e-6
    )
    # With three informative pixels of sixteen, all is told after the first of four steps.
    areas = ends[0] / 8 + ends[1] * 7 / 8
    np.testing.assert_allclose(insertion_area(classifier, x, LABELS, maps, Config(steps=4)), areas, rtol=1e-6)


def softmax(weights, x):
    logits = np.tensordot(x, weights, axes=([1, 2, 3], [1, 2, 3]))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_the_baseline_stands_for_missing_pixels():
    classifier, weights = linear_classifier()
    x = images()
    maps = input_gradient(classifier, x, LABELS)
    np.testing.assert_allclose(
        deletion_area(classifier, x, LABELS, maps, Config(baseline=x)), softmax(weights, x)[:, 0], rtol=1e-6
    )
    blank = blurred(x, 1.0)
    forth = insertion_area(classifier, x, LABELS, maps, Config(baseline=blank))
    back = deletion_area(classifier, blank, LABELS, maps, config=Config(baseline=x))
    np.testing.assert_allclose(forth, back, rtol=1e-6)


def test_areas_of_flat_inputs_and_of_images_without_channels():
    for shape in ((6,), (2, 3)):
        weights = np.zeros((2, *shape), dtype=np.float32)
        weights[0].flat[[1, 4]] = 5.0, 3.0
        classifier, _ = linear_classifier(weights, shape, 2)
        x = images(3, shape)
        right = input_gradient(classifier, x, [0] * 3)
        assert np.all(insertion_area(classifier, x, [0] * 3, right) > insertion_area(classifier, x, [0] * 3, 5 - right))


def test_a_blur_keeps_constants_and_has_its_width():
    x = images()
    assert blurred(x, 0.7).dtype == x.dtype
    np.testing.assert_allclose(blurred(np.ones_like(x), 2.0), 1.0, rtol=1e-6)
    np.testing.assert_allclose(blurred(x, 1e-3), x, rtol=1e-6)
    np.testing.assert_allclose(blurred(x, 1e3), np.broadcast_to(x.mean((2, 3), keepdims=True), x.shape), rtol=1e-5)
    spot = np.zeros((1, 21, 21))
    spot[0, 10, 10] = 1.0
    assert blurred(spot, 1.0)[0, 10, 12] == pytest.approx(np.exp(-2) * blurred(spot, 1.0)[0, 10, 10])
    with pytest.raises(ValueError, match="height"):
        blurred(np.ones((2, 3)), 1.0)
    with pytest.raises(ValueError, match="width"):
        blurred(x, 0.0)


def test_a_planted_cue_is_found():
    # Noise images, whose label is told by one corner pixel.
    generator = np.random.default_rng(0)
    x = generator.random((600, 1, 6, 6)).astype(np.float32)
    y = generator.integers(0, 2, 600)
    x[:, 0, 0, 5] = y
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), 2, optimizer=optimizer, penalties=[], device_type="cpu"
    )
    classifier.fit(x[:500], y[:500], batch_size=50, nb_epochs=10)
    x, y = x[500:], y[500:]
    assert (classifier.predict(x).argmax(1) == y).mean() == 1
    for maps in (input_gradient(classifier, x, y), integrated_gradients(classifier, x, y, config=Config(baseline=0.5))):
        assert np.all(np.abs(maps).reshape(len(x), -1).argmax(1) == 5)
        noise = generator.random(x.shape)
        for area, better in ((insertion_area, np.greater), (deletion_area, np.less)):
            right, wrong = (area(classifier, x, y, found, Config(baseline=0.5)).mean() for found in (maps, noise))
            assert better(right, wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, x: insertion_area(c, x, LABELS, x[:, :1]), "`saliency` has shape"),
        (lambda c, x: deletion_area(c, x, LABELS, x / 0), "`saliency` has NaN"),
        (lambda c, x: insertion_area(c, x, LABELS, x, Config(baseline=np.ones(7))), "baseline"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(linear_classifier()[0], images())
