"""Models by name, each with a choice of activation and with or without BatchNorm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from art_sensreg.utils import check_choice


class SteepSoftplus(nn.Softplus):
    """`log(1 + exp(10 x)) / 10`, as in smooth adversarial training (Xie et al. 2020, arXiv 2006.14536)."""

    # With torch's factor 1, every neuron idles at 0.7, and networks under a penalty or attack learn nothing.
    def __init__(self) -> None:
        super().__init__(beta=10.0)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": SteepSoftplus,
}
NORM_LAYERS = ("none", "batch")


def build_model(
    name: str,
    input_shape: tuple[int, int, int],
    nb_classes: int,
    activation: str = "relu",
    norm_layer: str = "none",
) -> nn.Module:
    """
    Build a model that returns logits.

    :param name: `mlp` (one hidden layer of 128), `cnn-small` (convolutions 16, 32, 32, dense 128), `cnn-medium`
        (convolutions 32, 32, 64, 64, dense 200, 200: Carlini and Wagner 2016, arXiv 1608.04644, table 1, without
        dropout; the published figures of TRADES on MNIST are of this network; images of less than 16 pixels a side are
        padded), `lenet` (LeNet-5 with max pooling), `resnet-small` (three pre-activation blocks of 16, 32, 64),
        `preact-resnet18` (He et al. 2016, arXiv 1603.05027, for 32x32).
    :param input_shape: Channels, height, width.
    :param nb_classes: Number of classes.
    :param activation: `relu`, `gelu`, `silu` or `softplus` (with factor 10).
    :param norm_layer: `none`, or `batch` for BatchNorm.
    :return: Module from `(n, channels, height, width)` to `(n, nb_classes)`.
    :raises ValueError: If a name is unknown.

    Example:
    >>> from art_sensreg.models import build_model
    >>> build_model("cnn-small", (1, 28, 28), 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    for argument, value, known in (
        ("model", name, MODELS),
        ("activation", activation, ACTIVATIONS),
        ("norm_layer", norm_layer, NORM_LAYERS),
    ):
        check_choice(argument, value, tuple(known))
    return MODELS[name](input_shape, nb_classes, ACTIVATIONS[activation], norm_layer == "batch")


class FeatureClassifier(nn.Module):
    """A feature extractor and a linear head: not an `nn.Sequential`, on which some of ART's trainers fail."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        return logits


def _conv(
    channels_in: int, channels_out: int, stride: int, act: type[nn.Module], norm: bool, padding: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=padding, bias=not norm)
    return [conv, nn.BatchNorm2d(channels_out), act()] if norm else [conv, act()]


def _dense(inputs: int, outputs: int, act: type[nn.Module], norm: bool) -> list[nn.Module]:
    linear = nn.Linear(inputs, outputs, bias=not norm)
    return [linear, nn.BatchNorm1d(outputs), act()] if norm else [linear, act()]


def _with_head(layers: list[nn.Module], width: int, nb_classes: int) -> nn.Module:
    return FeatureClassifier(nn.Sequential(*layers), nn.Linear(width, nb_classes))


def _mlp(input_shape: tuple[int, int, int], nb_classes: int, act: type[nn.Module], norm: bool) -> nn.Module:
    channels, height, width = input_shape
    return _with_head([nn.Flatten(), *_dense(channels * height * width, 128, act, norm)], 128, nb_classes)


def _cnn_small(input_shape: tuple[int, int, int], nb_classes: int, act: type[nn.Module], norm: bool) -> nn.Module:
    channels, height, width = input_shape
    size = 32 * ((height + 3) // 4) * ((width + 3) // 4)
    layers = [
        *_conv(channels, 16, 1, act, norm),
        *_conv(16, 32, 2, act, norm),
        *_conv(32, 32, 2, act, norm),
        nn.Flatten(),
        *_dense(size, 128, act, norm),
    ]
    return _with_head(layers, 128, nb_classes)


def _cnn_medium(input_shape: tuple[int, int, int], nb_classes: int, act: type[nn.Module], norm: bool) -> nn.Module:
    channels, height, width = input_shape
    padding = 0 if min(height, width) >= 16 else 1  # without padding, nothing is left of smaller images

    def block(channels_in: int, channels_out: int) -> list[nn.Module]:
        convolutions = _conv(channels_in, channels_out, 1, act, norm, padding)
        return [*convolutions, *_conv(channels_out, channels_out, 1, act, norm, padding), nn.MaxPool2d(2)]

    layers = [*block(channels, 32), *block(32, 64), nn.Flatten()]
    lost = 4 * (1 - padding)  # by the two convolutions of a block
    high, wide = (((side - lost) // 2 - lost) // 2 for side in (height, width))
    layers += _dense(64 * high * wide, 200, act, norm) + _dense(200, 200, act, norm)
    return _with_head(layers, 200, nb_classes)


def _lenet(input_shape: tuple[int, int, int], nb_classes: int, act: type[nn.Module], norm: bool) -> nn.Module:
    channels, height, width = input_shape

    def block(channels_in: int, channels_out: int) -> list[nn.Module]:
        conv = nn.Conv2d(channels_in, channels_out, 5, padding=2, bias=not norm)
        return [conv, *([nn.BatchNorm2d(channels_out)] if norm else []), act(), nn.MaxPool2d(2)]

    layers = [*block(channels, 6), *block(6, 16), nn.Flatten()]
    layers += _dense(16 * (height // 4) * (width // 4), 120, act, norm) + _dense(120, 84, act, norm)
    return _with_head(layers, 84, nb_classes)


class PreActBlock(nn.Module):
    """Pre-activation residual block (He et al. 2016, arXiv 1603.05027, figure 1b), with or without BatchNorm."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, act: type[nn.Module], norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in) if norm else nn.Identity()
        self.act1 = act()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=not norm)
        self.norm2 = nn.BatchNorm2d(channels_out) if norm else nn.Identity()
        self.act2 = act()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=not norm)
        same = stride == 1 and channels_in == channels_out
        self.shortcut = None if same else nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.act1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv2(self.act2(self.norm2(self.conv1(out))))
        return torch.add(out, shortcut)


def _residual(widths: tuple[int, ...], blocks: int) -> Callable[..., nn.Module]:
    def build(input_shape: tuple[int, int, int], nb_classes: int, act: type[nn.Module], norm: bool) -> nn.Module:
        layers: list[nn.Module] = [nn.Conv2d(input_shape[0], widths[0], 3, padding=1, bias=not norm)]
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(PreActBlock(channels, width, 2 if stage and not block else 1, act, norm))
                channels = width
        layers += [nn.BatchNorm2d(channels)] if norm else []
        layers += [act(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return _with_head(layers, channels, nb_classes)

    return build


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": _mlp,
    "cnn-small": _cnn_small,
    "cnn-medium": _cnn_medium,
    "lenet": _lenet,
    "resnet-small": _residual((16, 32, 64), blocks=1),
    "preact-resnet18": _residual((64, 128, 256, 512), blocks=2),
}
