"""
ART's certifiers: how a model is converted for them, and how the trained weights are copied back.

As shipped in ART 1.20.1, both `PyTorchIBPClassifier` and `PytorchDeepZ`

- convert the outermost children of a model, which must be Conv2d, Linear or ReLU with a bias: no Flatten, nothing
  nested, no pooling. A convolution without a bias is given a random one; groups are ignored;
- print, and leave hooks in the model that they convert; some layers share its weights and others do not, so that
  training moves some of it: here a copy is converted, and the weights are copied back;
- pick the GPU if there is one, whatever `device_type` says, and then find the model on the CPU;
- are trained with Python's `random` for shuffling, which is not seeded with numpy's: here it is;
- unroll interval convolutions into dense matrices, after every step anew: 0.7 million entries for the digits, 98
  million for 28x28 (400 MB, and seconds a step). `ConvolvedIntervals` convolves centres and radii, to the same bounds.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import random
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from art.defences.trainer import Trainer
from art.estimators.certification.interval import PyTorchIntervalConv2D
from art.estimators.certification.interval import pytorch as interval_module
from torch import nn
from torch.nn import functional

from art_sensreg.benchmark.defences.from_art.adversarial import art_one_cycle
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.models import FeatureClassifier
from art_sensreg.utils.model_rng import seeded


class ConvolvedIntervals(PyTorchIntervalConv2D):
    """ART's interval convolution with the same bounds from two convolutions, of centres and radii: nothing unrolled."""

    def convert_to_dense(self, device: Any) -> tuple[torch.Tensor, None]:
        """Nothing: an empty matrix, and no bias."""
        return torch.empty(0), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bounds of the outputs: `(n, 2, channels, height, width)` in and out."""
        centre = self._convolve((x[:, 1] + x[:, 0]) / 2, self._kernel, self.bias_to_grad)
        radius = self._convolve((x[:, 1] - x[:, 0]) / 2, self._kernel.abs(), None)
        return torch.stack([centre - radius, centre + radius], dim=1)

    def concrete_forward(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution itself, of images."""
        return self._convolve(x, self._kernel, self.bias_to_grad)

    @property
    def _kernel(self) -> torch.Tensor:
        kernel: torch.Tensor = self.conv.weight
        return kernel.reshape(self.out_channels, self.in_channels, *kernel.shape[2:])

    def _convolve(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.conv2d(x, kernel, bias, self.stride, self.padding, self.dilation)


class Flattening(nn.Sequential):
    """Layers in sequence, flattened before the first dense one: ART infers where, and has no layer for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return x


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model that ART converts, without Flatten."""
    if not isinstance(model, FeatureClassifier) or not isinstance(model.features, nn.Sequential):
        raise NotApplicable("ART's certifiers convert a sequence of layers only")
    layers = [layer for layer in (*model.features, model.head) if not isinstance(layer, nn.Flatten)]
    for layer in layers:
        if not isinstance(layer, nn.Conv2d | nn.Linear | nn.ReLU):
            raise NotApplicable(
                f"ART's certifiers support Conv2d, Linear and ReLU; this model has {type(layer).__name__}"
            )
    return layers


def sizes_of(spec: TrainingSpec, layers: list[nn.Module]) -> list[int]:
    """The number of inputs of layers in sequence, and of outputs of each of them."""
    x = torch.zeros(1, *spec.dataset.input_shape)
    sizes = [x.numel()]
    with torch.no_grad():
        for layer in layers:
            x = copy.deepcopy(layer).cpu()(x.flatten(1) if isinstance(layer, nn.Linear) else x)
            sizes.append(x.numel())
    return sizes


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Silence what ART prints and its warnings, and seed Python's generator, which its trainers shuffle with."""
    state = seeded([random], int(np.random.randint(2**31)))
    with state, contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _convolving(convolved: bool) -> Iterator[None]:
    """Make ART's conversion use `ConvolvedIntervals` or not: it has no argument for that."""
    interval_module.PyTorchIntervalConv2D = ConvolvedIntervals if convolved else PyTorchIntervalConv2D
    try:
        yield
    finally:
        interval_module.PyTorchIntervalConv2D = PyTorchIntervalConv2D


def convert(
    spec: TrainingSpec, kind: Any, model: nn.Module, convolved: bool = True, trained: bool = False, **kwargs: Any
) -> Any:
    """One of ART's certifiers of a copy of the model, on the device that ART picks; with an optimizer to be trained."""
    if trained and spec.optimization.optimizer == "adamw":
        raise NotApplicable("ART's certifiers convert Adam and SGD only; this run has adamw")
    layers = layers_of(model)
    sequence = copy.deepcopy(Flattening(*layers)).to("cuda:0" if torch.cuda.is_available() else "cpu")
    shape = spec.dataset.input_shape
    with contained(), _convolving(convolved):
        return kind(
            model=sequence,
            loss=nn.CrossEntropyLoss(),
            input_shape=(math.prod(shape),) if isinstance(layers[0], nn.Linear) else shape,
            nb_classes=spec.dataset.nb_classes,
            optimizer=spec.optimizer(sequence.parameters()) if trained else None,
            clip_values=(0.0, 1.0),
            device_type="gpu",
            **kwargs,
        )


def images_for(certifier: Any, x: np.ndarray) -> np.ndarray:
    """Images in the form that the converted model takes: flat, if its first layer is dense."""
    return np.ascontiguousarray(x.reshape(len(x), *certifier.input_shape), dtype=np.float32)


def train_certifier(spec: TrainingSpec, trainer: Trainer, certifier: Any, model: nn.Module, **settings: Any) -> None:
    """Train a converted model on a one-cycle schedule; the weights of the model that it was converted from follow."""
    schedule = art_one_cycle(spec, certifier.optimizer)
    steps = spec.epochs * -(-len(spec.dataset.x_train) // settings.get("batch_size", spec.batch_size))
    with spec.hooked(certifier.optimizer, model, steps, partial(copy_back, certifier, model)):
        with contained():
            for images, epochs in spec.epochs_of_images():
                x, y = images_for(certifier, images), spec.dataset.y_train
                trainer.fit(x, y, nb_epochs=epochs, scheduler=schedule, verbose=False, **settings)
        copy_back(certifier, model)


def copy_back(certifier: Any, model: nn.Module) -> None:
    """Copy the trained weights of a certifier into the model that it was converted from."""
    layers: list[Any] = [layer for layer in layers_of(model) if not isinstance(layer, nn.ReLU)]
    converted = [layer for layer in certifier.model.ops if next(layer.parameters(), None) is not None]
    with torch.no_grad():
        for layer, trained in zip(layers, converted, strict=True):
            weight = trained.conv.weight if isinstance(layer, nn.Conv2d) else trained.weight
            bias = trained.bias_to_grad if isinstance(trained, PyTorchIntervalConv2D) else trained.bias
            layer.weight.copy_(weight.view_as(layer.weight))
            layer.bias.copy_(bias)
