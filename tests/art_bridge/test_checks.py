"""What users get wrong when they call `fit`: one clear error, before any weight has moved."""

import re

import numpy as np
import pytest
from art.estimators.classification import PyTorchClassifier

from art_sensreg import SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.art_bridge import clip_bounds
from tests.conftest import same_weights, weights_of

N = 20


RNG = np.random.default_rng(0)


X = RNG.random((N, 1, 8, 8)).astype(np.float32)


Y = np.arange(N) % 10


def with_value(value, index=(3, 0, 2, 2)):
    x = X.copy()
    x[index] = value
    return x


def one_hot(width, y=Y):
    return np.eye(width, dtype=np.float32)[y]


WRONG = [
    ("nan", {"x": with_value(np.nan)}, ValueError, r"`x` has NaN or infinite values in 1 of 20 images"),
    ("inf", {"x": with_value(np.inf)}, ValueError, r"`x` has NaN or infinite values in 1 of 20 images"),
    ("above", {"x": with_value(1.5)}, ValueError, r"`x` has values from .* to 1.5; expected \[0, 1\]"),
    ("below", {"x": with_value(-0.1)}, ValueError, r"`x` has values from -0.1 to .*; expected \[0, 1\]"),
    ("uint8", {"x": (X * 255).astype(np.uint8)}, TypeError, r"`x` has dtype uint8; .*astype\('float32'\) / 255"),
    ("int64", {"x": X.astype(np.int64)}, TypeError, r"`x` has dtype int64; .* scaled to \[0, 1\]"),
    ("bool", {"x": X > 0.5}, TypeError, r"`x` has dtype bool"),
    ("objects", {"x": X.astype(object)}, TypeError, r"`x` has dtype object; expected floating point images"),
    ("text", {"x": "images"}, TypeError, r"`x`"),
    (
        "overflow",
        {"x": X.astype(float) + np.where(X.max() == X, 1e39, 0)},
        ValueError,
        r"`x` has NaN or infinite values",
    ),
    ("ragged", {"x": [[1.0], [1.0, 2.0]]}, ValueError, r"`x` cannot be read as an array"),
    ("ragged labels", {"y": [[1.0], [1.0, 2.0]]}, ValueError, r"`y` cannot be read as an array"),
    ("empty", {"x": X[:0], "y": Y[:0]}, ValueError, r"`x` is empty, shape \(0, 1, 8, 8\)"),
    ("shape", {"x": X[:, :, :7]}, ValueError, r"`x` has shape \(20, 1, 7, 8\); expected \(n, 1, 8, 8\)"),
    ("flat", {"x": X.reshape(N, -1)}, ValueError, r"`x` has shape \(20, 64\); expected \(n, 1, 8, 8\)"),
    ("one image", {"x": X[0]}, ValueError, r"`x` has shape \(1, 8, 8\); expected \(n, 1, 8, 8\)"),
    ("too large", {"y": np.where(Y == 3, 10, Y)}, ValueError, r"`y` has class indices from 0 to 10; expected 0 to 9"),
    ("negative", {"y": np.where(Y == 3, -1, Y)}, ValueError, r"`y` has class indices from -1 to 9; expected 0 to 9"),
    ("fraction", {"y": np.where(Y == 3, 1.7, Y)}, ValueError, r"`y` has fractional class indices such as 1.7"),
    ("nan label", {"y": np.where(Y == 3, np.nan, Y)}, ValueError, r"`y` has NaN or infinite values"),
    ("width", {"y": one_hot(10)[:, :7]}, ValueError, r"`y` has 7 columns; expected 10"),
    ("wide", {"y": one_hot(12)}, ValueError, r"`y` has 12 columns; expected 10"),
    ("sums", {"y": one_hot(10) * 2}, ValueError, r"`y` has probabilities that sum to 2"),
    ("3-d", {"y": one_hot(10)[None]}, ValueError, r"`y` has shape \(1, 20, 10\); expected class indices"),
    ("text labels", {"y": np.array(["a"] * N)}, TypeError, r"`y` has dtype <U1; expected class indices"),
    ("short", {"y": Y[:-1]}, ValueError, r"`y` has 19 labels; expected 20, one for each image"),
    ("epochs 0", {"nb_epochs": 0}, ValueError, r"`nb_epochs` is 0; expected a whole number of at least 1"),
    ("epochs -1", {"nb_epochs": -1}, ValueError, r"`nb_epochs` is -1"),
    ("epochs 1.5", {"nb_epochs": 1.5}, TypeError, r"`nb_epochs` is 1.5"),
    ("batch 0", {"batch_size": 0}, ValueError, r"`batch_size` is 0; expected a whole number of at least 1"),
    ("batch -5", {"batch_size": -5}, ValueError, r"`batch_size` is -5"),
    ("keyword", {"nb_epoch": 3}, TypeError, r"fit\(\) got an unknown keyword argument `nb_epoch`=3; expected x, y,"),
    (
        "scheduler",
        {"scheduler": "cosine"},
        TypeError,
        r"`scheduler` is 'cosine'; expected a torch learning rate scheduler",
    ),
    ("validation", {"validation_data": X}, TypeError, r"`validation_data` is ndarray; expected a pair"),
    (
        "validation nan",
        {"validation_data": (with_value(np.nan), Y)},
        ValueError,
        r"`validation_data: x` has NaN or infinite",
    ),
    (
        "validation label",
        {"validation_data": (X, Y + 1)},
        ValueError,
        r"`validation_data: y` has class indices from 1",
    ),
]


@pytest.mark.parametrize("kind", ["classifier", "trainer", "trainer of ART's classifier"])
@pytest.mark.parametrize(("change", "error", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_input_is_refused_before_any_weight_moves(make_classifier, kind, change, error, message):
    options = (
        {"penalties": [SensitivityPenalty()]} if kind != "trainer of ART's classifier" else {"kind": PyTorchClassifier}
    )
    classifier = make_classifier(**options)
    target = classifier if kind == "classifier" else SensRegTrainer(classifier)
    before = weights_of(classifier)
    quiet = {} if kind == "classifier" else {"verbose": False}
    with pytest.raises(error, match=message):
        target.fit(**{"x": X, "y": Y, "nb_epochs": 1, **quiet, **change})
    assert same_weights(before, weights_of(classifier))


@pytest.mark.parametrize(
    ("clip_values", "hint"),
    [
        ((0.0, 1.0), r"scaled to \[0, 1\]: for images from 0 to 255, x.astype\('float32'\) / 255\."),
        ((0.0, 255.0), r"scaled to \[0, 255\]: for images from 0 to 255, x.astype\('float32'\)\."),
        ((-1.0, 1.0), r"scaled to \[-1, 1\]: .* x.astype\('float32'\) / 255 \* 2 - 1\."),
        (None, r"the range that the model takes: .* x.astype\('float32'\) / 255\."),
    ],
)
def test_the_hint_for_integer_images_fits_the_range(make_classifier, clip_values, hint):
    with pytest.raises(TypeError, match=hint):
        make_classifier(clip_values=clip_values).fit((X * 255).astype(np.uint8), Y)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, ValueError, r"`seed` is -1"),
        ({"seed": 2**70}, ValueError, r"`seed` is 1180591620717411303424; expected a whole number below"),
        ({"seed": 0.5}, TypeError, r"`seed` is 0.5"),
        ({"scheduler_interval": "minute"}, ValueError, r"`scheduler_interval` is 'minute'; expected one of auto"),
        ({"max_grad_norm": 0}, ValueError, r"`max_grad_norm` is 0"),
        ({"epochs": 3}, TypeError, r"epochs"),
    ],
)
def test_a_wrong_config_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        TrainingConfig(**options)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 1), (1, 3, 2, 2), (3, 2)])
def test_clip_values_that_do_not_fit_an_image_are_refused(shape):
    with pytest.raises(ValueError, match=rf"`clip_values` holds arrays of shape {re.escape(str(shape))}; expected"):
        clip_bounds((np.zeros(shape), np.ones(shape)), (3, 4, 4))


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1, 1), (3, 4, 4), (48,)])
def test_clip_values_that_fit_an_image_are_taken(shape):
    low, high = clip_bounds((np.zeros(shape), np.ones(shape)), (3, 4, 4))
    assert np.broadcast_shapes(low.shape, high.shape, (3, 4, 4)) == (3, 4, 4)
