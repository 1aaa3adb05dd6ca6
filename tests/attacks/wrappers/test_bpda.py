import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoAttack,
    AutoProjectedGradientDescent,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    ProjectedGradientDescent,
    ProjectedGradientDescentPyTorch,
)
from art.defences.preprocessor import FeatureSqueezing, JpegCompression, SpatialSmoothing, ThermometerEncoding
from art.defences.preprocessor.preprocessor import Preprocessor
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks import BPDA
from tests.attacks.trained import Quantised, accuracy, points, quantise, trained, wrap

STRENGTH = {"eps": 0.15, "eps_step": 0.03, "max_iter": 20, "verbose": False}
LABELS = np.eye(10, dtype=np.float32)


def gradient(model, x, y):
    images = torch.from_numpy(x).requires_grad_(True)
    loss = nn.functional.cross_entropy(model(images), torch.from_numpy(y), reduction="sum")
    return torch.autograd.grad(loss, images)[0]


class StraightThrough(nn.Module):
    """Written once more, independently: the forward pass of the quantiser, the backward pass of the identity."""

    def __init__(self):
        super().__init__()
        self.model = trained()

    def forward(self, x):
        return self.model(x + (torch.round(8 * x) / 8 - x).detach())


def test_quantiser_is_broken_as_by_an_attack_straight_through_it():
    x, y = points(200)

    def under_attack(model):
        made = ProjectedGradientDescentPyTorch(wrap(model), **STRENGTH).generate(x, LABELS[y])
        return accuracy(wrap(Quantised(trained())), made, y)

    clean = accuracy(wrap(Quantised(trained())), x, y)
    assert under_attack(Quantised(trained())) > clean - 0.02  # zero gradient: looks robust
    assert under_attack(BPDA(trained(), quantise)) < 0.25
    assert under_attack(BPDA(trained(), quantise)) == pytest.approx(under_attack(StraightThrough()), abs=0.01)


def test_forward_is_exact_and_backward_the_surrogates():
    x, y = points(20)
    model, images = trained(), torch.from_numpy(x)
    assert torch.equal(BPDA(model, quantise)(images), model(quantise(images)))
    straight = gradient(model, quantise(images).numpy(), y)
    assert torch.allclose(gradient(BPDA(model, quantise), x, y), straight)
    assert torch.allclose(gradient(BPDA(model, quantise, surrogate=lambda u: 3 * u), x, y), 3 * straight)
    assert not gradient(Quantised(model), x, y).any()


@pytest.mark.parametrize("kind", ["tensors", "arrays", "module", "in place"])
def test_functions_of_all_kinds(kind):
    x, y = points(10)

    def of_arrays(u):
        assert isinstance(u, np.ndarray)
        return np.round(8 * u) / 8

    class Module(nn.Module):
        def forward(self, u):
            return quantise(u)

    def in_place(u):
        return u.mul_(8).round_().div_(8)

    function = {"tensors": quantise, "arrays": of_arrays, "module": Module(), "in place": in_place}[kind]
    wrapped, before = BPDA(trained(), function), x.copy()
    assert torch.equal(wrapped(torch.from_numpy(x)), trained()(quantise(torch.from_numpy(x))))
    assert np.array_equal(x, before)
    assert gradient(wrapped, x, y).any()


@pytest.mark.parametrize("kind", [JpegCompression, SpatialSmoothing, FeatureSqueezing])
def test_numpy_preprocessors_as_arts_own_identity(kind):
    settings = {
        JpegCompression: {"clip_values": (0.0, 1.0), "quality": 75, "channels_first": True},
        SpatialSmoothing: {"window_size": 2, "channels_first": True},
        FeatureSqueezing: {"clip_values": (0.0, 1.0), "bit_depth": 3},
    }
    x, y = points(100)
    defence = kind(**settings[kind])
    # Ours for both: on ART's own class FeatureSqueezing crashes under numpy 2. The gradient is ART's.
    arts = wrap(trained(), SensRegClassifier, preprocessing_defences=[defence])
    ours = wrap(BPDA(trained(), defence))
    assert np.allclose(ours.predict(x), arts.predict(x), atol=1e-5)
    assert np.allclose(ours.loss_gradient(x, LABELS[y]), arts.loss_gradient(x, LABELS[y]), atol=1e-6)
    made = {
        name: ProjectedGradientDescent(one, **STRENGTH).generate(x, LABELS[y])
        for name, one in (("arts", arts), ("ours", ours))
    }
    robust = {name: accuracy(arts, images, y) for name, images in made.items()}
    assert robust["ours"] == pytest.approx(robust["arts"], abs=0.01)
    assert robust["ours"] < accuracy(arts, x, y) - 0.2


def test_declared_gradient_of_thermometer_encoding():
    """Its output has ten times as many channels: the identity would not even fit."""
    torch.manual_seed(0)
    x, y = points(20)
    encoding = ThermometerEncoding(clip_values=(0.0, 1.0), num_space=10, channels_first=False)
    x = x.transpose(0, 2, 3, 1).copy()
    model = nn.Sequential(nn.Flatten(), nn.Linear(640, 32), nn.ReLU(), nn.Linear(32, 10))
    settings = {"clip_values": (0.0, 1.0), "preprocessing_defences": [encoding], "preprocessing": None}
    arts = PyTorchClassifier(model, nn.CrossEntropyLoss(), (8, 8, 1), 10, device_type="cpu", **settings)
    ours = BPDA(model, encoding)
    assert np.allclose(ours(torch.from_numpy(x)).detach(), arts.predict(x), atol=1e-5)
    expected = len(x) * arts.loss_gradient(x, LABELS[y])
    assert np.abs(expected).max() > 0
    assert np.allclose(gradient(ours, x, y), expected, atol=1e-5)


def test_declared_gradient_of_any_preprocessor():
    class Negative(Preprocessor):
        def __call__(self, x, y=None):
            return 1 - x, y

        def estimate_gradient(self, x, grad):
            return -grad

    x, y = points(10)
    model = trained()
    assert torch.allclose(
        gradient(BPDA(model, Negative()), x, y), gradient(nn.Sequential(Complement(), model), x, y), atol=1e-6
    )
    # A surrogate that is given wins over the declared one.
    straight = gradient(BPDA(model, Negative(), surrogate=lambda u: u), x, y)
    assert torch.allclose(straight, -gradient(BPDA(model, Negative()), x, y), atol=1e-6)


class Complement(nn.Module):
    def forward(self, x):
        return 1 - x


def apgd(classifier, loss, eps=0.1, max_iter=4):
    return AutoProjectedGradientDescent(
        classifier, eps=eps, eps_step=eps / 4, max_iter=max_iter, nb_random_init=1, loss_type=loss, verbose=False
    )


ARTS = {
    "fgm": lambda one: FastGradientMethod(one, eps=0.1),
    "pgd": lambda one: ProjectedGradientDescent(one, eps=0.1, eps_step=0.03, max_iter=4, verbose=False),
    "apgd": lambda one: apgd(one, None),
    "apgd-ce": lambda one: apgd(one, "cross_entropy"),
    "apgd-dlr": lambda one: apgd(one, "difference_logits_ratio"),
    "autoattack": lambda one: AutoAttack(
        one, eps=0.2, eps_step=0.05, attacks=[apgd(one, "cross_entropy", 0.2, 8), DeepFool(one, 4, verbose=False)]
    ),
    "deepfool": lambda one: DeepFool(one, max_iter=4, verbose=False),
    "carlini-l2": lambda one: CarliniL2Method(one, initial_const=10, max_iter=9, binary_search_steps=1, verbose=False),
}


@pytest.mark.parametrize("name", ARTS)
def test_all_arts_attacks_go_through_the_preprocessing(name):
    calls, gradients = [], []

    def counted(u):
        calls.append(len(u))
        return quantise(u)

    def surrogate(u):
        same = 1.0 * u
        if same.requires_grad:
            same.register_hook(lambda gradient: gradients.append(bool(gradient.any())))
        return same

    x, y = points(8)
    classifier = wrap(BPDA(trained(), counted, surrogate), SensRegClassifier)
    attack = ARTS[name](classifier)
    calls.clear()
    made = attack.generate(x, LABELS[y])
    assert calls
    assert any(gradients)
    assert not np.array_equal(made, x)
    assert np.isfinite(made).all()
    if name == "autoattack":
        assert accuracy(classifier, made, y) < 0.5


def test_per_example_gradients_by_vmap():
    x, y = (torch.from_numpy(part) for part in points(5))
    model = BPDA(trained(), quantise)

    def loss(image, label):
        return nn.functional.cross_entropy(model(image[None]), label[None])

    rows = torch.func.vmap(torch.func.grad(loss))(x, y)
    assert torch.allclose(rows, gradient(model, x.numpy(), y.numpy()), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((quantise, quantise), TypeError, "`model` is function; expected an nn.Module"),
        ((nn.Identity(), 3), TypeError, "`preprocessing` is int; expected a function of a batch"),
        ((nn.Identity(), quantise, "identity"), TypeError, "`surrogate` is str"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        BPDA(*arguments)


def test_surrogate_of_another_shape_is_refused():
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="the identity into"):
        BPDA(nn.Identity(), lambda u: u.repeat(1, 2, 1, 1))(x)
    with pytest.raises(ValueError, match="give a `surrogate` of that shape"):
        BPDA(nn.Identity(), quantise, surrogate=lambda u: u[:, :, :4])(x)
