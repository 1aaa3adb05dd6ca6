import copy
import os
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer
from art_sensreg.attacks.wrappers.eot import EOT
from art_sensreg.models import build_model
from art_sensreg.randomized import RandomizedClassifier
from tests.attacks.random_models import Noisy, noisy_classifier
from tests.conftest import same_weights, weights_of


@pytest.fixture
def make(digits):
    return partial(noisy_classifier, digits)


def outputs(classifier, x):
    torch.manual_seed(5)
    return classifier.predict(x)


def test_the_model_is_the_module_that_averages(make, digits):
    classifier = make(samples=5, average="probabilities")
    assert type(classifier.model) is EOT
    assert (classifier.samples, classifier.average, classifier.eot) == (5, "probabilities", classifier.model)
    assert (make().samples, make().average) == (16, "logits")
    inner = EOT(classifier.model.model, samples=3, max_rows=50)
    around = RandomizedClassifier(inner, nn.CrossEntropyLoss(), digits.input_shape, 10, device_type="cpu")
    assert around.model is inner
    assert (around.samples, around.eot.max_rows) == (3, 50)
    assert RandomizedClassifier(model=inner, loss=None, input_shape=(2,), nb_classes=2, samples=9).samples == 9


def test_predictions_and_gradients_average(digits):
    # Input noise of a linear model: the logits have the variance |w|^2 std^2 / samples.
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    classifier = RandomizedClassifier(
        Noisy(linear), nn.CrossEntropyLoss(), digits.input_shape, 10, samples=25, device_type="cpu"
    )
    x = np.repeat(digits.x_test[:1], 2000, axis=0)
    spread = 0.3 * linear[1].weight.norm(dim=1).detach().numpy() / 5
    exact = SensRegClassifier(linear, nn.CrossEntropyLoss(), digits.input_shape, 10, device_type="cpu")
    found = classifier.predict(x)
    assert np.allclose(found.std(axis=0), spread, rtol=0.1)
    assert (np.abs(found.mean(axis=0) - exact.predict(x[:1])[0]) < 5 * spread / np.sqrt(2000)).all()
    classifier.samples = 4000
    assert np.allclose(classifier.class_gradient(x[:2]), exact.class_gradient(x[:2]), atol=1e-6)
    y = np.eye(10, dtype=np.float32)[digits.y_test[:1]]
    assert np.allclose(classifier.loss_gradient(x[:1], y), exact.loss_gradient(x[:1], y), atol=0.003)


def test_one_image_at_a_time_is_the_same_distribution(make, digits):
    classifier = make(samples=4)
    x = np.repeat(digits.x_test[:1], 600, axis=0)
    together, alone = classifier.predict(x, batch_size=600), classifier.predict(x, batch_size=1)
    error = np.sqrt((together.var(axis=0) + alone.var(axis=0)) / 600)
    assert (np.abs(together.mean(axis=0) - alone.mean(axis=0)) < 4.5 * error).all()
    assert np.allclose(together.std(axis=0), alone.std(axis=0), rtol=0.2)


@pytest.mark.parametrize("penalties", [(), (SensitivityPenalty(), JacobianPenalty())])
def test_training_is_that_of_the_model_in_single_draws(make, digits, penalties):
    x, y = digits.x_train[:300], digits.y_train[:300]
    plain, averaged = make(kind=SensRegClassifier, penalties=penalties), make(penalties=penalties)
    start = weights_of(plain)
    for classifier in (plain, averaged):
        classifier.fit(x, y, batch_size=50, nb_epochs=2, seed=3)
    assert same_weights(weights_of(plain), weights_of(averaged))
    assert not same_weights(start, weights_of(plain))
    assert [{**e, "seconds": 0} for e in plain.history] == [{**e, "seconds": 0} for e in averaged.history]
    assert plain.model.rows.count(50) == averaged.model.model.rows.count(50) >= 12
    assert averaged.model.training is False


def test_trainers_and_validation(make, digits):
    classifier = make(samples=6, std=1.0)
    trainer = SensRegTrainer(classifier, [SensitivityPenalty(layers=["model.model.features.2"])])
    x, y = digits.x_train[:200], digits.y_train[:200]
    trainer.fit(x, y, nb_epochs=1, verbose=False, validation_data=(digits.x_test[:40], digits.y_test[:40]))
    assert trainer.history[-1]["sensitivity"] > 0
    assert classifier.model.model.rows[-1] == 6 * 40  # validation data are scored by the mean


def same_settings(classifier, params):
    return all(classifier.get_params()[name] is params[name] for name in ("model", "samples", "average", "penalties"))


def test_get_and_set_params(make, digits):
    classifier = make(samples=5, penalties=[SensitivityPenalty()])
    params = classifier.get_params()
    assert (params["samples"], params["average"], params["model"]) == (5, "logits", classifier.model)
    classifier.set_params(samples=7, average="probabilities")
    assert (classifier.eot.samples, classifier.eot.average) == (7, "probabilities")
    other = build_model("cnn-small", digits.input_shape, 10)
    classifier.set_params(model=other)
    assert (classifier.model.model, classifier.samples, classifier.average) == (other, 7, "probabilities")
    classifier.set_params(**params)
    assert same_settings(classifier, params)
    for wrong, kind in (({"samples": 0}, ValueError), ({"samples": "3"}, TypeError), ({"average": "sum"}, ValueError)):
        with pytest.raises(kind, match=rf"`{next(iter(wrong))}` is .*; expected"):
            classifier.set_params(model=other, **wrong)
        with pytest.raises(kind, match=rf"`{next(iter(wrong))}` is .*; expected"):
            make(**wrong)
        assert same_settings(classifier, params)
    with pytest.raises(TypeError, match=r"`model` is function; expected an nn.Module"):
        RandomizedClassifier(lambda x: x, nn.CrossEntropyLoss(), (2,), 2, device_type="cpu")


def test_clone_for_refitting(make, digits):
    classifier = make(samples=5, average="probabilities", penalties=[SensitivityPenalty()])
    clone = classifier.clone_for_refitting()
    assert type(clone) is RandomizedClassifier
    assert (clone.samples, clone.average, clone.penalties) == (5, "probabilities", classifier.penalties)
    assert clone.model is not classifier.model
    assert not same_weights(weights_of(clone), weights_of(classifier))
    before = weights_of(classifier)
    clone.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=1)
    clone.samples = 2
    assert classifier.samples == 5
    assert same_weights(before, weights_of(classifier))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
def test_copies(make, digits, copier):
    classifier = make(samples=5, average="probabilities")
    classifier.fit(digits.x_train[:100], digits.y_train[:100], nb_epochs=1)
    classifier.predict(digits.x_test[:5])
    twin = copier(classifier)
    assert np.array_equal(outputs(twin, digits.x_test[:9]), outputs(classifier, digits.x_test[:9]))
    twin.samples = 3
    assert classifier.samples == 5
    for each in (classifier, twin):
        each.fit(digits.x_train[:100], digits.y_train[:100], nb_epochs=1, seed=0)
    assert same_weights(weights_of(twin), weights_of(classifier))


def test_files_hold_the_users_model_alone(make, digits, tmp_path):
    x, y = digits.x_train[:100], digits.y_train[:100]
    classifier, plain, other = make(samples=5), make(kind=SensRegClassifier), make(samples=5)
    classifier.fit(x, y, nb_epochs=1, seed=0)
    classifier.save("random", str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["random.safetensors"]
    plain.load_weights("random", str(tmp_path))
    plain.save("plain", str(tmp_path))
    other.load_weights("plain", str(tmp_path))
    assert np.array_equal(outputs(other, x), outputs(classifier, x))
    assert type(other.model) is EOT
    for each in (classifier, plain, other):  # the optimizer's state came along
        each.fit(x, y, nb_epochs=1, seed=1)
    assert same_weights(weights_of(other), weights_of(classifier))
    assert same_weights(weights_of(plain), weights_of(classifier))
    with pytest.raises(FileNotFoundError):
        other.load_weights("none", str(tmp_path))
    assert type(other.model) is EOT


def test_files_hold_the_weights_of_a_transform(digits, tmp_path):
    def make():
        eot = EOT(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), transform=nn.Conv2d(1, 1, 1))
        return RandomizedClassifier(eot, nn.CrossEntropyLoss(), digits.input_shape, 10, device_type="cpu")

    first, second = make(), make()
    first.save("both", str(tmp_path))
    second.load_weights("both", str(tmp_path))
    assert np.array_equal(first.predict(digits.x_test[:5]), second.predict(digits.x_test[:5]))


def test_loading_weights_measures_the_noise_again(digits, tmp_path):
    class Learned(nn.Module):
        def __init__(self, std):
            super().__init__()
            self.std = nn.Parameter(torch.tensor(std))

        def forward(self, x):
            weight = torch.eye(64)[:, :10] + self.std * torch.randn(64, 10)
            return (x.flatten(1) + 0.1 * torch.randn(len(x), 64)) @ weight

    quiet, loud = (
        RandomizedClassifier(Learned(s), nn.CrossEntropyLoss(), digits.input_shape, 10, device_type="cpu")
        for s in (0.0, 1.0)
    )
    x = torch.from_numpy(digits.x_test[:4])
    quiet.predict(digits.x_test[:4])
    assert quiet.eot.plan(x).samples == 16
    loud.save("loud", str(tmp_path))
    quiet.load_weights("loud", str(tmp_path))
    assert quiet.eot.plan(x).samples == 1


def test_activations_are_those_of_one_draw(make, digits):
    classifier, plain = make(name="cnn-small"), make(name="cnn-small", kind=SensRegClassifier)
    assert classifier.layer_names == ["model.model"]
    found = []
    for each in (classifier, plain):
        torch.manual_seed(0)
        found.append(each.get_activations(digits.x_test[:6], 0))
    assert np.array_equal(*found)
    assert np.array_equal(found[0].shape, (6, 10))
