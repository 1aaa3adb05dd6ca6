"""The network of a run: one of the package's by name, or the user's own from code or another library."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg.benchmark.config.network_weights import load_network_weights
from art_sensreg.benchmark.config.references import load_object, source_of
from art_sensreg.models import MODELS, build_model
from art_sensreg.utils import shown
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.modes import eval_mode
from art_sensreg.utils.text import error_text

FORMS = "FILE.py:FUNCTION, MODULE:FUNCTION, timm:NAME, torchvision:NAME, robustbench:NAME"
Shape = tuple[int, int, int]


def is_own(name: str) -> bool:
    """Whether a network is not one of the package's."""
    return ":" in name


def check_network_name(name: str) -> str:
    """
    Check the form of a network's name.

    :param name: A name of the package's models, or a reference.
    :return: The same.
    :raises ValueError: If it is neither.

    Example:
    >>> from art_sensreg.benchmark.config.networks import check_network_name
    >>> check_network_name("my_net.py:build"), check_network_name("mlp")
    ('my_net.py:build', 'mlp')
    >>> check_network_name("my_net.py")
    Traceback (most recent call last):
    ValueError: 'my_net.py' names no function of the file; expected my_net.py:FUNCTION
    """
    if is_own(name) or name in MODELS:
        return name
    if name.endswith(".py"):
        raise ValueError(f"{name!r} names no function of the file; expected {name}:FUNCTION")
    raise ValueError(
        f"invalid choice: {name!r} (choose from {', '.join(MODELS)}; or {FORMS}){did_you_mean(name, MODELS)}"
    )


@dataclass(frozen=True, kw_only=True)
class Network:
    """
    An architecture, and the weights that it begins with.

    :param name: One of `art_sensreg.models.MODELS`; or `FILE.py:FUNCTION`, `MODULE:FUNCTION`, `timm:NAME`,
        `torchvision:NAME` (both with random weights) or `robustbench:NAME` (its published weights).
    :param activation: Of the package's models: `relu`, `gelu`, `silu` or `softplus`.
    :param norm_layer: Of the package's models: `none` or `batch`.
    :param weights: File with the weights that every model begins with; None: those that it is built with.
    """

    name: str
    activation: str = "relu"
    norm_layer: str = "none"
    weights: str | None = None

    def build(self, input_shape: Shape, nb_classes: int) -> nn.Module:
        """
        Build a model, with the random weights that torch's generator gives it unless it brings its own.

        :param input_shape: Channels, height, width.
        :param nb_classes: Number of classes.
        :return: The model.
        :raises ValueError: If there is no such network, its code fails, or the weights are those of another.
        """
        if is_own(self.name):
            model = _own(self.name, input_shape, nb_classes)
        else:
            model = build_model(self.name, input_shape, nb_classes, self.activation, self.norm_layer)
        if self.weights is not None:
            try:
                load_network_weights(Path(self.weights), model)
            except ValueError as error:
                raise ValueError(f"`--weights`: {self.weights} holds no weights of {self.name}: {error}") from error
        return model

    def checked_classes(self, images: np.ndarray, nb_classes: int) -> int:
        """
        Build it twice, try it on images, and return the number of its outputs: at least one for each class.

        :param images: A few images `(n, channels, height, width)`, float32.
        :param nb_classes: Number of classes of the data.
        :return: Number of outputs: of a network that was trained on more classes, more.
        :raises ValueError: If it cannot be built, or is not a network from such images to so many logits.
        """
        channels, height, width = images.shape[1:]
        first, second = (self.build((channels, height, width), nb_classes) for _ in range(2))
        if first is second or _shared(first, second):
            raise ValueError(f"`--model`: {self.name} returns the same weights each time; expected a new module")
        try:
            with torch.no_grad(), eval_mode(first):
                outputs = first(torch.from_numpy(images))
        except Exception as error:
            size = f"{channels} x {height} x {width}"
            raise ValueError(f"`--model`: {self.name} fails on images of {size}: {error_text(error)[:300]}") from error
        if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != len(images):
            what = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise ValueError(f"`--model`: {self.name} returns {what} for {len(images)} images; expected rows of logits")
        if outputs.shape[1] < nb_classes:
            raise ValueError(
                f"`--model`: {self.name} returns {outputs.shape[1]} logits an image; the data have {nb_classes} classes"
            )
        return outputs.shape[1]

    @property
    def crc32(self) -> int | None:
        """Checksum of the user's files that it depends on, or None if there are none."""
        code = source_of(self.name) if is_own(self.name) else None
        files = [file for file in (code, None if self.weights is None else Path(self.weights)) if file is not None]
        return zlib.crc32(b"".join(file.read_bytes() for file in files)) if files else None


class _ThreeChannels(nn.Module):
    """A network for colour images, on grey ones: it gets them three times."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(x.expand(-1, 3, -1, -1))
        return outputs


def _own(name: str, input_shape: Shape, nb_classes: int) -> nn.Module:
    library, _, rest = name.partition(":")
    make = _LIBRARIES.get(library)
    if make is None:
        return _from_code(name, input_shape, nb_classes)
    if find_spec(library) is None:
        raise ValueError(f"`--model` {name} needs {library}, which is not installed: pip install {library}")
    try:
        model: nn.Module = make(rest, input_shape, nb_classes)
        return model
    except Exception as error:  # whatever the library raises
        if str(error).startswith("`--model`"):
            raise
        raise ValueError(f"`--model` {name} cannot be built: {error_text(error)[:300]}") from error


def _from_code(name: str, input_shape: Shape, nb_classes: int) -> nn.Module:
    make = load_object("--model", name)
    if not callable(make) or isinstance(make, nn.Module):
        raise ValueError(f"`--model`: {name} is {shown(make)}; expected a function or class that makes a module")
    known = {"input_shape": input_shape, "nb_classes": nb_classes, "num_classes": nb_classes}
    try:
        accepted = inspect.signature(make).parameters
        model = make(**{key: value for key, value in known.items() if key in accepted})
    except Exception as error:
        raise ValueError(f"`--model`: {name} raised {error_text(error)[:300]}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"`--model`: {name} returned {shown(model)}; expected a torch.nn.Module")
    return model


def _timm(name: str, input_shape: Shape, nb_classes: int) -> nn.Module:
    import timm

    _check_known("timm", name, timm.list_models())
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=nb_classes, in_chans=input_shape[0])
    return model


def _torchvision(name: str, input_shape: Shape, nb_classes: int) -> nn.Module:
    import torchvision

    _check_known("torchvision", name, torchvision.models.list_models(module=torchvision.models))
    model = torchvision.models.get_model(name, weights=None, num_classes=nb_classes)
    return _for_colour(model, input_shape)


def _robustbench(name: str, input_shape: Shape, nb_classes: int) -> nn.Module:
    from robustbench.utils import load_model

    threat, _, own = name.rpartition("/")
    dataset = {10: "cifar10", 100: "cifar100"}.get(nb_classes, "imagenet")
    return _for_colour(load_model(own, dataset=dataset, threat_model=threat or "Linf"), input_shape)


def _for_colour(model: nn.Module, input_shape: Shape) -> nn.Module:
    return _ThreeChannels(model) if input_shape[0] == 1 else model


def _check_known(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"`--model`: {library} has no model {name!r}{did_you_mean(name, known)}")


def _shared(first: nn.Module, second: nn.Module) -> bool:
    """Whether two models have a weight in common: training one would train the other."""
    places = {weight.data_ptr() for weight in first.parameters() if weight.numel()}
    return any(weight.data_ptr() in places for weight in second.parameters() if weight.numel())


_LIBRARIES: dict[str, Callable[[str, Shape, int], Any]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "robustbench": _robustbench,
}
