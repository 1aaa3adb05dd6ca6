"""What users get wrong when they call `fit`: one clear error, before any weight has moved."""

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegTrainer, TrainingConfig
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
    ("empty", {"x": X[:0], "y": Y[:0]}, ValueError, r"`x` is empty, shape \(0, 1, 8, 8\)"),
    ("shape", {"x": X[:, :, :7]}, ValueError, r"`x` has shape \(20, 1, 7, 8\); expected \(n, 1, 8, 8\)"),
    ("flat", {"x": X.reshape(N, -1)}, ValueError, r"`x` has shape \(20, 64\); expected \(n, 1, 8, 8\)"),
    ("one image", {"x": X[0]}, ValueError, r"`x` has shape \(1, 8, 8\); expected \(n, 1, 8, 8\)"),
    ("too large", {"y": np.where(Y == 3, 10, Y)}, ValueError, r"`y` has class indices from 0 to 10; expected 0 to 9"),
    ("negative", {"y": np.where(Y == 3, -1, Y)}, ValueError, r"`y` has class indices from -1 to 9; expected 0 to 9"),
    ("fraction", {"y": np.where(Y == 3, 1.7, Y)}, ValueError, r"`y` has fractional class indices such as 1.7"),
    ("nan label", {"y": np.where(Y == 3, np.nan, Y)}, ValueError, r"`y` has NaN or infinite values"),
    ("width", {"y": one_hot(10)[:, :7]}, ValueError, r"`y` has rows of width 7; expected 10"),
    ("wide", {"y": one_hot(12)}, ValueError, r"`y` has rows of width 12; expected 10"),
    ("sums", {"y": one_hot(10) * 2}, ValueError, r"`y` has rows that sum to 2"),
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
        r"`x of `validation_data`` has NaN or infinite",
    ),
    (
        "validation label",
        {"validation_data": (X, Y + 1)},
        ValueError,
        r"`y of `validation_data`` has class indices from 1",
    ),
]


@pytest.mark.parametrize("kind", ["classifier", "trainer", "trainer of ART's classifier"])
@pytest.mark.parametrize(("change", "error", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_wrong_input(make_classifier, kind, change, error, message):
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


def test_no_optimizer(make_classifier):
    classifier = make_classifier(optimizer=None)
    for target in (classifier, SensRegTrainer(classifier)):
        with pytest.raises(ValueError, match=r"`optimizer` of the classifier is None; expected a torch optimizer"):
            target.fit(X, Y)


def test_unknown_layer(make_classifier):
    classifier = make_classifier(penalties=[SensitivityPenalty(layers=["conv9"])])
    before = weights_of(classifier)
    with pytest.raises(ValueError, match=r"`layers` asks for 'conv9', which the model has not; its modules: features"):
        classifier.fit(X, Y, nb_epochs=1)
    assert same_weights(before, weights_of(classifier))


def test_clip_without_clip_values(make_classifier):
    classifier = make_classifier(penalties=[SensitivityPenalty(clip=True)], clip_values=None)
    with pytest.raises(ValueError, match=r"`clip` of SensitivityPenalty\(.*\) is True; expected a classifier"):
        classifier.fit(X, Y, nb_epochs=1)


@pytest.mark.parametrize(
    "same",
    [
        {"x": X.astype(np.float64)},
        {"x": X.astype(np.float16).astype(np.float64)},
        {"x": torch.from_numpy(X)},
        {"x": X.tolist()},
        {"y": one_hot(10)},
        {"y": one_hot(10).astype(int)},
        {"y": Y.astype(float)},
        {"y": Y[:, None]},
        {"y": Y.tolist()},
        {"y": Y.astype(np.uint8)},
        {"y": torch.from_numpy(Y)},
    ],
    ids=lambda change: f"{next(iter(change))} {type(next(iter(change.values()))).__name__}",
)
def test_what_is_converted(make_classifier, same):
    def trained(**data):
        classifier = make_classifier(penalties=[SensitivityPenalty()])
        classifier.fit(**{"x": X, "y": Y, **data}, nb_epochs=2, seed=0)
        return weights_of(classifier)

    reference = trained(x=np.asarray(same["x"], dtype=np.float32)) if "x" in same else trained()
    assert same_weights(reference, trained(**same))


def test_soft_labels_are_kept(make_classifier):
    classifier = make_classifier()
    soft = np.full((N, 10), 0.1)
    classifier.fit(X, soft, nb_epochs=60, batch_size=N, seed=0)
    probabilities = torch.softmax(torch.from_numpy(classifier.predict(X)), dim=1)
    assert abs(probabilities - 0.1).max() < 0.05


@pytest.mark.parametrize("flat", [False, True])
def test_a_range_of_clip_values_per_pixel(make_classifier, flat):
    low, high = np.zeros((1, 8, 8)), np.ones((1, 8, 8))
    high[0, 0, 0] = 0.5
    bounds = (low.ravel(), high.ravel()) if flat else (low, high)
    classifier = make_classifier(clip_values=bounds, penalties=[SensitivityPenalty(clip=True)])
    with pytest.raises(ValueError, match=r"`x` has values from"):
        classifier.fit(with_value(0.9, (0, 0, 0, 0)), Y)
    classifier.fit(np.minimum(X, high), Y, nb_epochs=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, ValueError, r"`seed` is -1"),
        ({"seed": 0.5}, TypeError, r"`seed` is 0.5"),
        ({"scheduler_interval": "minute"}, ValueError, r"`scheduler_interval` is 'minute'; expected one of auto"),
        ({"max_grad_norm": 0}, ValueError, r"`max_grad_norm` is 0"),
        ({"epochs": 3}, TypeError, r"epochs"),
    ],
)
def test_wrong_config(options, error, message):
    with pytest.raises(error, match=message):
        TrainingConfig(**options)


def test_other_losses_take_labels_as_art_does():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))
    classifier = PyTorchClassifier(
        model, nn.BCEWithLogitsLoss(), (1, 8, 8), 2, optimizer=torch.optim.Adam(model.parameters(), 1e-2)
    )
    labels = (X.mean(axis=(1, 2, 3)) > 0.5).astype(int)
    trainer = SensRegTrainer(classifier, [SensitivityPenalty(weight=0.01)])
    trainer.fit(X, labels, nb_epochs=200, verbose=False)
    assert trainer.history[-1]["accuracy"] > 0.9
