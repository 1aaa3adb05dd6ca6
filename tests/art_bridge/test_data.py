"""What users give to be trained on is read alike in every form, and left alone."""

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegTrainer
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


def test_read_only_images_are_trained_on_without_a_warning(make_classifier, recwarn):
    x = X.copy()
    x.flags.writeable = False
    make_classifier().fit(x, Y, nb_epochs=1)
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


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
def test_images_and_labels_of_every_type_train_alike(make_classifier, same):
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
def test_clip_values_may_differ_by_pixel(make_classifier, flat):
    low, high = np.zeros((1, 8, 8)), np.ones((1, 8, 8))
    high[0, 0, 0] = 0.5
    bounds = (low.ravel(), high.ravel()) if flat else (low, high)
    classifier = make_classifier(clip_values=bounds, penalties=[SensitivityPenalty(clip=True)])
    with pytest.raises(ValueError, match=r"`x` has values from"):
        classifier.fit(with_value(0.9, (0, 0, 0, 0)), Y)
    classifier.fit(np.minimum(X, high), Y, nb_epochs=1)


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
