import numpy as np
import pytest
import torch
from art.defences.preprocessor import FeatureSqueezing, GaussianAugmentation, SpatialSmoothing
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks import ProjectedAscent, differentiable_model
from art_sensreg.models import build_model
from tests.attacks.trained import accuracy, points, quantise, trained, wrap


class QuantiserPyTorch(PreprocessorPyTorch):
    """A torch preprocessor whose gradient is zero almost everywhere, with random state to be left alone."""

    def __init__(self, apply_predict=True):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=False, apply_predict=apply_predict)

    def forward(self, x, y=None):
        torch.rand(1)
        return quantise(x), y


class DeclaredPyTorch(QuantiserPyTorch):
    """The same, with a surrogate of its own: twice the identity."""

    def estimate_forward(self, x, y=None):
        return 2 * x


class AveragePyTorch(QuantiserPyTorch):
    """A differentiable one."""

    def forward(self, x, y=None):
        return nn.functional.avg_pool2d(x, 3, stride=1, padding=1), y


def squeezing(bits=3):
    return FeatureSqueezing(clip_values=(0.0, 1.0), bit_depth=bits)


def smoothing():
    return SpatialSmoothing(window_size=3, channels_first=True)


def coloured(n=6):
    return np.random.default_rng(0).random((n, 3, 8, 8), dtype=np.float32), np.arange(n) % 4


def colour_classifier(kind=SensRegClassifier, **settings):
    torch.manual_seed(0)
    model = build_model("cnn-small", (3, 8, 8), 4)
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", **settings}
    return kind(model, nn.CrossEntropyLoss(), (3, 8, 8), 4, **settings)


CASES = {
    "nothing": {},
    "numbers": {"preprocessing": (0.3, 0.2)},
    "channels": {"preprocessing": ([0.1, 0.4, 0.5], [0.2, 0.5, 0.7])},
    "shaped": {"preprocessing": (np.full((3, 1, 1), 0.2), np.full((3, 1, 1), 0.5))},
    "range": {"clip_values": (0.0, 255.0), "preprocessing": ([10.0, 20.0, 30.0], [60.0] * 3)},
    "channel range": {"clip_values": (np.zeros((3, 1, 1)), np.ones((3, 1, 1))), "preprocessing": (0.5, 0.5)},
    "numpy": {"preprocessing_defences": [smoothing()]},
    "numpy, then numbers": {"preprocessing_defences": [smoothing()], "preprocessing": (0.3, 0.2)},
    "numpy in float64": {"preprocessing_defences": [squeezing()], "preprocessing": ([0.1, 0.4, 0.5], [0.2, 0.5, 0.7])},
    "torch": {"preprocessing_defences": [AveragePyTorch()], "preprocessing": (0.3, 0.2)},
    "flat torch": {"preprocessing_defences": [QuantiserPyTorch()], "preprocessing": (0.3, 0.2)},
    "declared torch": {"preprocessing_defences": [DeclaredPyTorch()]},
    "not at prediction": {"preprocessing_defences": [QuantiserPyTorch(apply_predict=False)]},
}


@pytest.mark.parametrize(
    ("case", "kind"),
    # ART's own class crashes on what its FeatureSqueezing returns under numpy 2.
    [(case, SensRegClassifier) for case in CASES]
    + [(case, PyTorchClassifier) for case in CASES if case != "numpy in float64"],
)
def test_logits_are_those_of_the_classifier(case, kind):
    classifier, (x, _) = colour_classifier(kind, **CASES[case]), coloured()
    x = x * np.float32(np.max(classifier.clip_values[1]))
    ours = differentiable_model(classifier)(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(ours, classifier.predict(x), atol=1e-5)
    assert np.allclose(differentiable_model(classifier, surrogates=False)(torch.from_numpy(x)).detach(), ours)


def gradients(classifier, x, y, surrogates):
    """Ours and ART's."""
    images = torch.from_numpy(x).requires_grad_(True)
    logits = differentiable_model(classifier, surrogates)(images)
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(y))
    return torch.autograd.grad(loss, images)[0].numpy(), classifier.loss_gradient(x, np.eye(logits.shape[1])[y])


@pytest.mark.parametrize("case", [case for case in CASES if case != "declared torch"])  # ART ignores it: see below
def test_gradient_without_surrogates_is_arts(case):
    kind = SensRegClassifier if case == "numpy in float64" else PyTorchClassifier
    classifier, (x, y) = colour_classifier(kind, **CASES[case]), coloured()
    x = x * np.float32(np.max(classifier.clip_values[1]))
    ours, arts = gradients(classifier, x, y, surrogates=False)
    assert np.allclose(ours, arts, atol=1e-6)
    assert ours.any() != (case == "flat torch")


def test_flat_preprocessing_is_passed_straight_through():
    (x, y), honest = coloured(), colour_classifier(PyTorchClassifier)
    there = gradients(honest, quantise(torch.from_numpy(x)).numpy(), y, surrogates=True)[1]
    flat = colour_classifier(PyTorchClassifier, preprocessing_defences=[QuantiserPyTorch()])
    ours, arts = gradients(flat, x, y, surrogates=True)
    assert not arts.any()
    assert np.allclose(ours, there, atol=1e-7)
    # What the preprocessor declares itself is used; ART ignores it.
    declared = colour_classifier(PyTorchClassifier, preprocessing_defences=[DeclaredPyTorch()])
    ours, arts = gradients(declared, x, y, surrogates=True)
    assert not arts.any()
    assert np.allclose(ours, 2 * there, atol=1e-7)


def test_differentiable_torch_preprocessing_is_differentiated_as_it_is():
    classifier, (x, y) = colour_classifier(PyTorchClassifier, preprocessing_defences=[AveragePyTorch()]), coloured()
    ours, arts = gradients(classifier, x, y, surrogates=True)
    assert np.allclose(ours, arts, atol=1e-7)
    assert ours.any()


def test_looking_at_preprocessing_leaves_the_random_state_alone():
    classifier = colour_classifier(preprocessing_defences=[QuantiserPyTorch()])
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    differentiable_model(classifier)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_augmentation_that_is_for_training_alone_is_left_out():
    augmentation = GaussianAugmentation(sigma=1.0, augmentation=False, apply_fit=True, apply_predict=False)
    classifier, (x, _) = colour_classifier(preprocessing_defences=[augmentation]), coloured()
    assert np.allclose(differentiable_model(classifier)(torch.from_numpy(x)).detach(), classifier.predict(x), atol=1e-6)


@pytest.mark.parametrize("shape", ["column", "flat"])
def test_binary_classifier_with_one_output(shape):
    model = nn.Sequential(nn.Linear(2, 1), *([nn.Flatten(0)] if shape == "flat" else []))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        model[0].bias.zero_()
    classifier = PyTorchClassifier(model, nn.BCEWithLogitsLoss(), (2,), 2, clip_values=(0.0, 1.0), device_type="cpu")
    x = np.array([[0.9, 0.1], [0.1, 0.9], [0.55, 0.5]], dtype=np.float32)
    logits = differentiable_model(classifier)(torch.from_numpy(x))
    assert torch.allclose(logits, torch.tensor([[0.0, 0.8], [0.0, -0.8], [0.0, 0.05]]))
    made = ProjectedAscent(classifier, eps=0.1).generate(x, np.array([1, 0, 1]))
    changed = differentiable_model(classifier)(torch.from_numpy(made)).argmax(1)
    assert changed.tolist() == [1, 0, 0]


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_model_in_float64(kind):
    model, (x, y) = trained().double(), points(20)
    classifier = wrap(model, SensRegClassifier, preprocessing=(0.1, 0.5))
    images = torch.from_numpy(x).to(kind).requires_grad_(True)
    logits = differentiable_model(classifier)(images)
    assert logits.dtype == kind
    assert torch.allclose(logits, model((images.double() - 0.1) / 0.5).to(kind), rtol=1e-5)
    assert np.allclose(logits.detach(), classifier.predict(x), atol=1e-5)
    gradient = torch.autograd.grad(logits.sum(), images)[0]
    assert gradient.dtype == kind
    assert gradient.any()
    plain = wrap(trained(), SensRegClassifier)
    doubled = wrap(trained().double(), SensRegClassifier)
    made = [ProjectedAscent(one, eps=0.15, max_iter=10).generate(x, y) for one in (plain, doubled)]
    assert accuracy(doubled, made[1], y) == pytest.approx(accuracy(plain, made[0], y), abs=0.051)


def test_the_model_is_no_copy_and_in_evaluation_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    classifier, (x, _) = wrap(model.train()), points(4)
    view = differentiable_model(classifier)
    assert not model.training
    before = view(torch.from_numpy(x))
    with torch.no_grad():
        model[2].weight.mul_(2)
        model[2].bias.mul_(2)
    assert torch.allclose(view(torch.from_numpy(x)), 2 * before, rtol=1e-5)
