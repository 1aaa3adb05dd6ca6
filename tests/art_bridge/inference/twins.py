"""Models and classifiers twice: as this package's, and as ART's own."""

import copy

import numpy as np
import torch
from art.defences.postprocessor import ReverseSigmoid, Rounded
from art.defences.preprocessor import GaussianAugmentation, SpatialSmoothing
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.numpy import StandardisationMeanStd
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import nn
from torch.utils.checkpoint import checkpoint

from art_sensreg import SensRegClassifier
from art_sensreg.models import build_model

SHAPE = (2, 6, 6)


def mlp(outputs=3, last=()):
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, outputs), *last)


class Function(nn.Module):
    """A network around any function of `(inner, x)`, and so none that is known to leave its input alone."""

    def __init__(self, function, inner=None):
        super().__init__()
        self.function = function
        self.inner = inner or mlp()

    def forward(self, x):
        return self.function(self.inner, x)


def in_place_without_gradient(inner, x):
    with torch.no_grad():
        x.mul_(0.5)
    return inner(x)


def gradient_inside(inner, x):
    with torch.enable_grad():
        weight = inner[1].weight
        return inner(x) + torch.autograd.grad(weight.pow(2).sum(), weight)[0].mean()


class Blur(PreprocessorPyTorch):
    """A preprocessor in torch, noisy so that random numbers count."""

    def forward(self, x, y=None):
        return nn.functional.avg_pool2d(x, 3, 1, 1) + 0.01 * torch.rand_like(x), y


MODELS = {
    "mlp": mlp,
    "mlp-of-the-package": lambda: build_model("mlp", SHAPE, 3),
    "cnn-small": lambda: build_model("cnn-small", SHAPE, 3),
    "cnn-small-batch-norm": lambda: build_model("cnn-small", SHAPE, 3, norm_layer="batch"),
    "resnet-small-gelu": lambda: build_model("resnet-small", SHAPE, 3, activation="gelu", norm_layer="batch"),
    "convolutional-sequential": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
    "in-place-first": lambda: nn.Sequential(nn.ReLU(inplace=True), *mlp()),
    "in-place-on-a-view": lambda: nn.Sequential(nn.Flatten(), nn.Hardtanh(0.2, 0.7, inplace=True), nn.Linear(72, 3)),
    "in-place-on-the-input": lambda: Function(lambda inner, x: inner(x.add_(0.1))),
    "in-place-without-gradient": lambda: Function(in_place_without_gradient),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.3), *mlp()),
    "noise-of-its-own": lambda: Function(lambda inner, x: inner(x + 0.1 * torch.randn_like(x))),
    "frozen": lambda: mlp().requires_grad_(False),
    "half-frozen": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3).requires_grad_(False), nn.Linear(3, 3)),
    "float64": lambda: mlp().double(),
    "float16": lambda: mlp().half(),
    "no-weights": lambda: nn.Sequential(nn.Flatten(), nn.Softplus(), nn.AdaptiveAvgPool1d(3)),
    "recurrent": lambda: Function(lambda inner, x: inner(x.flatten(2))[0][:, -1], nn.GRU(36, 3, batch_first=True)),
    "recurrent-and-dropout": lambda: Function(
        lambda inner, x: inner[1](inner[0](x.flatten(2))[0])[:, -1],
        nn.ModuleList([nn.GRU(36, 3, batch_first=True), nn.Dropout()]),
    ),
    "checkpoints": lambda: Function(lambda inner, x: checkpoint(inner, x, use_reentrant=True)),
    "gradient-inside": lambda: Function(gradient_inside),
}


PREPROCESSING = {
    "none": {"preprocessing": None},
    "identity": {"preprocessing": (0.0, 1.0)},
    "standardisation": {"preprocessing": (0.3, 0.5)},
    "standardisation-by-channel": {"preprocessing": (np.array([0.1, 0.4]), np.array([0.5, 0.25]))},
    "identity-by-channel": {"preprocessing": (np.zeros(2), np.ones(2))},
    "training-only": {"preprocessing": StandardisationMeanStdPyTorch(0.3, 0.5, apply_predict=False)},
    "numpy-standardisation": {"preprocessing": StandardisationMeanStd(0.3, 0.5)},
    "numpy-identity": {"preprocessing": StandardisationMeanStd(0.0, 1.0)},
    "numpy-defence": {"preprocessing_defences": SpatialSmoothing(window_size=3, channels_first=True)},
    "numpy-defence-and-standardisation": {
        "preprocessing_defences": SpatialSmoothing(window_size=3, channels_first=True),
        "preprocessing": (0.3, 0.5),
    },
    "torch-defence": {"preprocessing_defences": Blur()},
    "torch-defence-and-standardisation": {
        "preprocessing_defences": Blur(),
        "preprocessing": (0.3, 0.5),
    },
    "training-defence": {"preprocessing_defences": GaussianAugmentation(sigma=0.1, augmentation=False)},
    "rounded": {"postprocessing_defences": Rounded(decimals=2)},
    "reverse-sigmoid": {"postprocessing_defences": ReverseSigmoid()},
    "no-clipping": {"clip_values": None},
}


def classifiers(model, loss=None, nb_classes=3, **kwargs):
    """The same model twice: as ours, and as ART's."""
    loss = loss or nn.CrossEntropyLoss()
    kwargs = {"clip_values": (0.0, 1.0), "device_type": "cpu", **kwargs}
    return [
        kind(copy.deepcopy(model), copy.deepcopy(loss), SHAPE, nb_classes, **copy.deepcopy(kwargs))
        for kind in (SensRegClassifier, PyTorchClassifier)
    ]


def images_and_labels():
    images = np.random.default_rng(0).random((7, *SHAPE)).astype(np.float32)
    return images, np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 1, 0, 1]]
