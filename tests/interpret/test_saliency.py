import random
import sys

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import interpret
from art_sensreg.art_bridge.preprocessing import StandardisedModel
from art_sensreg.interpret import SALIENCIES, input_gradient, integrated_gradients
from art_sensreg.interpret import ExplanationConfig as Config
from art_sensreg.randomized import RandomizedClassifier
from tests.attacks.random_models import Noisy, noisy_classifier
from tests.interpret.models import SHAPE, images, linear_classifier, smooth_classifier


def plain_classifier(model):
    return PyTorchClassifier(model, nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu")


@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_the_gradient_of_a_linear_model_is_its_weights(batch_size):
    weights = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    classifier, _ = linear_classifier(weights)
    labels = np.array([0, 1, 2, 1, 0])
    gradients = input_gradient(classifier, images(), labels, config=Config(batch_size=batch_size))
    assert gradients.dtype == np.float32
    np.testing.assert_array_equal(gradients, weights[labels])
    np.testing.assert_array_equal(gradients, input_gradient(classifier, images(), np.eye(3)[labels]))


@pytest.mark.parametrize("baseline", [0.0, 0.3, np.full(SHAPE, 0.1), images(seed=9)])
def test_integrated_gradients_of_a_linear_model(baseline):
    weights = np.random.default_rng(1).normal(size=(3, *SHAPE)).astype(np.float32)
    classifier, _ = linear_classifier(weights)
    x, labels = images(), np.array([0, 1, 2, 1, 0])
    found = integrated_gradients(classifier, x, labels, config=Config(baseline=baseline, steps=3))
    np.testing.assert_allclose(found, (x - baseline) * weights[labels], atol=1e-5)
    slopes = integrated_gradients(
        classifier, x, labels, multiply_by_inputs=False, config=Config(baseline=baseline, steps=3)
    )
    np.testing.assert_allclose(slopes, weights[labels], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 40, 128])
def test_integrated_gradients_are_complete(batch_size):
    classifier = smooth_classifier()
    x, labels = images(), np.array([0, 1, 2, 1, 0])
    found = integrated_gradients(classifier, x, labels, config=Config(baseline=0.5, batch_size=batch_size))
    rows = np.arange(5)
    change = classifier.predict(x)[rows, labels] - classifier.predict(np.full_like(x, 0.5))[rows, labels]
    np.testing.assert_allclose(found.sum((1, 2, 3)), change, atol=1e-5)


def test_integrated_gradients_of_a_power():
    class Power(nn.Module):
        def forward(self, x):
            return x**3

    classifier = PyTorchClassifier(Power(), nn.CrossEntropyLoss(), (3,), 3, device_type="cpu")
    x = images(4, (3,))
    found = integrated_gradients(classifier, x, [0, 1, 2, 0], config=Config(steps=4))
    expected = np.where(np.eye(3, dtype=bool)[[0, 1, 2, 0]], x**3, 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", list(SALIENCIES))
def test_gradients_go_through_the_preprocessing(name):
    mean, std = np.array([0.2, 0.4]), np.array([0.5, 0.1])
    classifier = smooth_classifier(preprocessing=(mean, std))
    parts = (torch.tensor(part, dtype=torch.float32)[:, None, None] for part in (mean, std))
    same = plain_classifier(StandardisedModel(classifier.model, *parts))
    x, labels = images(), np.array([0, 1, 2, 1, 0])
    assert np.abs(SALIENCIES[name](classifier, x, labels)).max() > 0
    np.testing.assert_allclose(
        SALIENCIES[name](classifier, x, labels), SALIENCIES[name](same, x, labels), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", list(SALIENCIES))
def test_a_model_that_cuts_the_gradient_gives_zeros(name):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.bias.expand(len(x), 3)

    class Rounded(nn.Module):
        def forward(self, x):
            return torch.round(x.detach()).flatten(1)[:, :3]

    for model in (Constant(), Rounded()):
        np.testing.assert_array_equal(
            SALIENCIES[name](plain_classifier(model), images(), [0] * 5), np.zeros((5, *SHAPE))
        )


@pytest.mark.parametrize("name", list(SALIENCIES))
def test_a_model_that_works_in_place(name):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 3))
    x = images() - 0.5
    kept = x.copy()
    found = SALIENCIES[name](plain_classifier(model), x, [0] * 5)
    np.testing.assert_array_equal(x, kept)
    assert np.all(found[x < 0] == 0)
    assert np.all(found[x > 0] != 0)


def state():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.mark.parametrize("name", list(SALIENCIES))
def test_the_classifier_does_not_change(name):
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Tanh(), nn.Linear(8, 3))
    model.train()
    model[3].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    classifier = plain_classifier(Noisy(model))
    modes = [module.training for module in classifier.model.modules()]
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    before = state()
    first = SALIENCIES[name](classifier, images(), [0] * 5)
    assert state() == before
    assert [module.training for module in classifier.model.modules()] == modes
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(parameter.grad, torch.ones_like(parameter)) for parameter in model.parameters())
    torch.rand(3)
    np.testing.assert_array_equal(first, SALIENCIES[name](classifier, images(), [0] * 5))
    assert np.any(first != SALIENCIES[name](classifier, images(), [0] * 5, config=Config(seed=1)))


def test_the_mode_is_restored_after_an_error():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    classifier = plain_classifier(Broken().train())
    with pytest.raises(RuntimeError, match="no"):
        input_gradient(classifier, images(), [0] * 5)
    assert classifier.model.training


@pytest.mark.parametrize("name", list(SALIENCIES))
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_maps_are_the_same_where_gradients_are_disabled(name, context):
    classifier = smooth_classifier()
    expected = SALIENCIES[name](classifier, images(), [0] * 5)
    with context():
        np.testing.assert_array_equal(SALIENCIES[name](classifier, images(), [0] * 5), expected)


def test_random_models_are_averaged(digits):
    classifier = noisy_classifier(digits, std=0.5, samples=64)
    assert isinstance(classifier, RandomizedClassifier)
    x, y = digits.x_test[:4], digits.y_test[:4]
    many = input_gradient(classifier, x, y)
    classifier.samples = 1
    one, other = (input_gradient(classifier, x, y, config=Config(seed=seed)) for seed in (1, 2))
    assert np.linalg.norm(one - many) < np.linalg.norm(one - other)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": np.ones((2, 3))}, ValueError, "`x` has shape"),
        ({"x": np.ones((0, *SHAPE))}, ValueError, "at least one image"),
        ({"x": np.full((5, *SHAPE), np.nan)}, ValueError, "NaN"),
        ({"x": np.ones((5, *SHAPE), dtype=np.uint8)}, TypeError, "dtype uint8"),
        ({"y": [0, 1, 2, 3, 0]}, ValueError, "class indices from 0 to 3"),
        ({"y": [0, 1]}, ValueError, "`y` has 2 labels"),
        ({"classifier": nn.Identity()}, TypeError, "PyTorchClassifier"),
        ({"config": Config(baseline=np.ones(7))}, ValueError, "`baseline` has shape"),
        ({"config": Config(baseline=np.nan)}, ValueError, "`baseline` has NaN"),
        ({"config": Config(baseline="black")}, TypeError, "`baseline` is 'black'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    given = {"classifier": linear_classifier()[0], "x": images(), "y": [0] * 5, **arguments}
    with pytest.raises(error, match=message):
        integrated_gradients(**given)
    if "config" not in arguments:
        with pytest.raises(error, match=message):
            input_gradient(**given)


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    for name in ("captum", "matplotlib"):
        for part in ("", ".attr", ".metrics", ".figure"):
            monkeypatch.setitem(sys.modules, name + part, None)
    classifier, _ = linear_classifier()
    assert input_gradient(classifier, images(), [0] * 5).shape == (5, *SHAPE)
    message = r"captum is missing: pip install 'art_sensreg\[bench\]'"
    with pytest.raises(ImportError, match=message):
        integrated_gradients(classifier, images(), [0] * 5)
    with pytest.raises(ImportError, match=message):
        interpret.explain(classifier, images(), [0] * 5)
    with pytest.raises(ImportError, match=r"matplotlib is missing: pip install 'art_sensreg\[bench\]'"):
        interpret.saliency_picture({"linear": classifier}, images(), [0] * 5, tmp_path / "maps.png", ["gradient"])
