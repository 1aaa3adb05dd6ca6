"""Models whose output is drawn anew at every call, or that never leave training mode."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.models import FeatureClassifier, build_model
from tests.auditing.models.planted_base import Back, Front, Transform, fitted, front, planted, preprocessor, seeded
from tests.auditing.models.planted_discrete import replaced

RESIZED = "Images are resized, shifted or turned at random (Xie et al. 2018)."
DROPOUT = "Dropout is on at test time."
NOISE = "Noise is drawn at every call."
SEEDED = "Noise is a hash of the image: the same at every call, and another one a step further."
TRAINING = "The model stays in training mode whatever is called."


def resized(x: torch.Tensor) -> torch.Tensor:
    """To a random size, padded at a random place."""
    size = int(torch.randint(7, 9, ()))
    left, top = (int(torch.randint(0, 9 - size, ())) for _ in range(2))
    small = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return F.pad(small, (left, 8 - size - left, top, 8 - size - top))


def shifted(x: torch.Tensor) -> torch.Tensor:
    """A random crop of the padded image, another for each row."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows = [padded[i : i + 1, :, a : a + 8, b : b + 8] for i, (a, b) in enumerate(torch.randint(0, 3, (len(x), 2)))]
    return torch.cat(rows)


def turned(x: torch.Tensor) -> torch.Tensor:
    angle = (torch.rand(len(x), dtype=x.dtype) - 0.5) * 0.6
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def some_pixels(x: torch.Tensor) -> torch.Tensor:
    return x * (torch.rand_like(x) > 0.15)


def noisy(std: float) -> Transform:
    return lambda x: x + std * torch.randn_like(x)


def noise_of_numpy(x: torch.Tensor) -> torch.Tensor:
    return x + torch.from_numpy(np.random.normal(0, 0.15, tuple(x.shape))).to(x.dtype)


def noise_of_python(x: torch.Tensor) -> torch.Tensor:
    """Drawn from the operating system, which no seed reaches."""
    source = random.SystemRandom()
    return x + torch.tensor([source.uniform(-0.25, 0.25) for _ in range(x.numel())], dtype=x.dtype).view_as(x)


def random_rounding(x: torch.Tensor) -> torch.Tensor:
    return torch.floor(x * 5 + torch.rand_like(x)) / 5


def hashed(x: torch.Tensor) -> torch.Tensor:
    """Noise of each row's own bytes."""
    rows = []
    for row in x.detach():
        seed = int.from_bytes(hashlib.sha256(row.numpy().tobytes()).digest()[:7], "big")
        rows.append(torch.randn(row.shape, generator=torch.Generator().manual_seed(seed), dtype=row.dtype))
    return x + 0.2 * torch.stack(rows)


class OwnGenerator(nn.Module):
    """A generator of its own, which `torch.manual_seed` does not reach."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        logits: torch.Tensor = self.base(x + 0.15 * noise)
        return logits


class Hidden(nn.Module):
    """A function of the features before the head."""

    def __init__(self, base: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.base = base
        self.transform = transform

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base.head(self.transform(self.base.features(x)))
        return logits


class NoisyWeights(nn.Module):
    """Each call multiplies every weight with noise of its own."""

    def __init__(self, base: nn.Module, std: float) -> None:
        super().__init__()
        self.base = base
        self.std = std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn = {name: p * (1 + self.std * torch.randn_like(p)) for name, p in self.base.named_parameters()}
        logits: torch.Tensor = functional_call(self.base, drawn, (x,))
        return logits


class AnyOf(nn.Module):
    """One of several models, drawn at every call."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.models[int(torch.randint(len(self.models), ()))](x)
        return logits


class StubbornDropout(nn.Dropout):
    def train(self, mode: bool = True) -> Any:
        return super().train(True)


class Averaged(nn.Module):
    """The mean of a few passes with dropout (Gal and Ghahramani 2016)."""

    def __init__(self, base: nn.Module, passes: int = 3) -> None:
        super().__init__()
        self.base = base
        self.passes = passes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.base.features(x)
        drawn = [self.base.head(F.dropout(features, 0.6, training=True)) for _ in range(self.passes)]
        return torch.stack(drawn).mean(0)


class AlwaysTraining(nn.Module):
    """`train(False)` and `eval()` do nothing."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(x)
        return logits

    def train(self, mode: bool = True) -> Any:
        self.training = True
        self.base.train(True)
        return self

    def eval(self) -> Any:
        return self


class TrainingInForward(nn.Module):
    """The flags say evaluation until the forward pass sets them."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in self.modules():
            module.training = True
        logits: torch.Tensor = self.base(x)
        for module in self.modules():
            module.training = False
        return logits


def with_batch_norm(digits: Dataset, seed: int = 0) -> nn.Module:
    return fitted(seeded(lambda: build_model("cnn-small", (1, 8, 8), 10, norm_layer="batch"), seed), digits, 6)


def with_dropout(base: nn.Module, layer: nn.Module) -> nn.Module:
    return FeatureClassifier(nn.Sequential(*base.features, layer), base.head)


def several(digits: Dataset, base: nn.Module) -> nn.Module:
    others = [seeded(lambda: build_model("mlp", (1, 8, 8), 10), seed) for seed in (1, 2, 3)]
    return AnyOf([base, *(fitted(other, digits, 6, seed=1) for other in others)])


class RandomSlopes(nn.Module):
    """RReLU that draws its slopes as in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rrelu(x, 0.0, 0.6, training=True)


def dropped(p: float) -> Transform:
    return lambda x: F.dropout(x, p, training=True)


FAULTS = [
    front("random_resize", RESIZED, resized, epochs=12),
    front("random_crop_per_row", RESIZED, shifted, epochs=12),
    front("random_rotation", RESIZED, turned),
    front("random_pixels_dropped", RESIZED, some_pixels, epochs=6),
    planted(
        "random_resize_in_preprocessor",
        RESIZED,
        lambda d, b: fitted(b, d, 12, transform=resized),
        preprocessing_defences=preprocessor(resized),
    ),
    planted("dropout_left_on", DROPOUT, lambda d, b: Hidden(b, dropped(0.5))),
    planted("dropout_module_that_stays_on", DROPOUT, lambda d, b: with_dropout(b, StubbornDropout(0.6))),
    planted("dropout_averaged", DROPOUT, lambda d, b: Averaged(b)),
    planted("dropout_on_input", DROPOUT, lambda d, b: Front(b, dropped(0.1)), kind=SensRegClassifier),
    front("noise_on_input", NOISE, noisy(0.2), epochs=6),
    front("noise_on_input_small", NOISE, noisy(0.05)),
    front("noise_on_input_of_sensreg_classifier", NOISE, noisy(0.1), SensRegClassifier),
    planted("noise_in_preprocessor", NOISE, lambda d, b: b, preprocessing_defences=preprocessor(noisy(0.12))),
    front("noise_of_numpy", NOISE, noise_of_numpy),
    front("noise_of_the_operating_system", NOISE, noise_of_python),
    planted("noise_of_own_generator", NOISE, lambda d, b: OwnGenerator(b)),
    planted("noise_on_features", NOISE, lambda d, b: Hidden(b, noisy(1.0))),
    planted("noise_on_weights", NOISE, lambda d, b: NoisyWeights(b, 0.3)),
    planted("noise_on_logits", NOISE, lambda d, b: Back(b, noisy(1.5))),
    front("noise_before_rounding", NOISE, random_rounding),
    front("noise_hashed_from_image", SEEDED, hashed),
    planted("one_of_several_models", NOISE, several),
    planted("random_slopes", NOISE, lambda d, b: fitted(replaced(b, RandomSlopes()), d, 8)),
    planted("training_mode_with_batch_norm", TRAINING, lambda d, b: AlwaysTraining(with_batch_norm(d))),
    planted("training_mode_with_dropout", TRAINING, lambda d, b: AlwaysTraining(with_dropout(b, nn.Dropout(0.5)))),
    planted("training_mode_set_in_forward", TRAINING, lambda d, b: TrainingInForward(with_dropout(b, nn.Dropout(0.6)))),
    planted(
        "training_mode_set_in_forward_batch_norm",
        TRAINING,
        lambda d, b: TrainingInForward(with_batch_norm(d)),
        kind=SensRegClassifier,
    ),
]
