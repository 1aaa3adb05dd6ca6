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


def test_optimizers_that_would_train_nothing(make_classifier):
    stranger = make_classifier().model
    for optimizer, error, message in (
        (torch.optim.SGD(stranger.parameters(), 0.1), ValueError, r"`optimizer` of the classifier holds none of the 4"),
        (torch.optim.LBFGS(stranger.parameters()), TypeError, r"`optimizer` of the classifier is LBFGS"),
    ):
        with pytest.raises(error, match=message):
            make_classifier(optimizer=optimizer).fit(X, Y, nb_epochs=1)
    frozen = make_classifier()
    frozen.model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"`optimizer` of the classifier holds none of the 0 parameters"):
        frozen.fit(X, Y, nb_epochs=1)
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(stranger.parameters(), 0.1), 1)
    with pytest.raises(ValueError, match=r"`scheduler` drives another optimizer"):
        make_classifier().fit(X, Y, nb_epochs=1, scheduler=scheduler)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [(7, r"`model` returns shape \(2, 7\) for 2 images; expected logits of shape \(2, 10\)"), (12, r"shape \(2, 12\)")],
)
def test_models_of_another_width(outputs, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device_type="cpu",
    )
    with pytest.raises(ValueError, match=message):
        SensRegTrainer(classifier, []).fit(X, Y, verbose=False)


def test_models_that_return_several_outputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            return self.linear(x.flatten(1)), x

    model = Two()
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device_type="cpu",
    )
    with pytest.raises(ValueError, match=r"`model` returns tuple for 2 images; expected logits"):
        SensRegTrainer(classifier, []).fit(X, Y, verbose=False)


def test_models_that_work_in_place_leave_the_users_images_alone():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            return self.linear(x.sub_(0.5).relu().flatten(1))

    model, x = InPlace(), X.copy()
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        clip_values=(0, 1),
        device_type="cpu",
    )
    penalties = [SensitivityPenalty(), lambda model, x, y: (x.min() < 0) * 1e3 + model(x).mean() * 0]
    trainer = SensRegTrainer(classifier, penalties)
    trainer.fit(x, Y, nb_epochs=2, validation_data=(x, Y), verbose=False)
    assert np.array_equal(x, X)
    assert trainer.history[-1]["<lambda>"] == 0


def test_read_only_images(make_classifier, recwarn):
    x = X.copy()
    x.flags.writeable = False
    make_classifier().fit(x, Y, nb_epochs=1)
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_a_missing_argument_is_pythons_own_error(make_classifier):
    with pytest.raises(TypeError, match=r"fit\(\) missing 1 required positional argument: 'y'"):
        make_classifier().fit(X)


def test_unknown_layer(make_classifier):
    classifier = make_classifier(penalties=[SensitivityPenalty(layers=["conv9"])])
    before = weights_of(classifier)
    with pytest.raises(
        ValueError, match=r"`layers` asks for 'conv9', which the model does not have; its modules: features"
    ):
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
        ({"seed": 2**70}, ValueError, r"`seed` is 1180591620717411303424; expected a whole number below"),
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
        model,
        nn.BCEWithLogitsLoss(),
        (1, 8, 8),
        2,
        optimizer=torch.optim.Adam(model.parameters(), 1e-2),
        device_type="cpu",
    )
    labels = (X.mean(axis=(1, 2, 3)) > 0.5).astype(int)
    trainer = SensRegTrainer(classifier, [SensitivityPenalty(weight=0.01)])
    trainer.fit(X, labels, nb_epochs=200, verbose=False)
    assert trainer.history[-1]["accuracy"] > 0.9


def test_accuracy_of_binary_classifiers_with_probabilities():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid())
    classifier = PyTorchClassifier(
        model, nn.BCELoss(), (1, 8, 8), 2, optimizer=torch.optim.Adam(model.parameters(), 1e-9), device_type="cpu"
    )
    labels = (X.mean(axis=(1, 2, 3)) > 0.5).astype(int)
    trainer = SensRegTrainer(classifier, [])
    trainer.fit(X, labels, nb_epochs=1, verbose=False)
    outputs = classifier.predict(X)[:, 0]
    assert trainer.history[0]["accuracy"] == pytest.approx(((outputs > 0.5) == labels).mean())
