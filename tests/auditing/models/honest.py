"""Honest models of many kinds, on which the audit must report no failure: robust and not, sure and unsure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional as F

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.defences.train_spec import TrainingSpec
from art_sensreg.datasets import Dataset
from art_sensreg.models import build_model
from tests.auditing.models.honest_modules import Mean, Recurrent, Scale, Tokens
from tests.auditing.models.planted_base import Back, Front, fitted, preprocessor, seeded, wrap

Build = Callable[[Dataset], PyTorchClassifier]
Honest = tuple[PyTorchClassifier, np.ndarray, np.ndarray]
HONEST: dict[str, Build] = {}


def honest(build: Build) -> Build:
    HONEST[build.__name__] = build
    return build


def task(digits: Dataset, eps: float = 0.1, epochs: int = 12, **kwargs: Any) -> TrainingSpec:
    settings = {"model": "cnn-small", "activation": "relu", "norm_layer": "none", "seed": 0, **kwargs}
    rates: dict[str, Any] = {"batch_size": 64, "learning_rate": 3e-3, "norm": "linf", "device": "cpu"}
    return TrainingSpec(dataset=digits, eps=eps, epochs=epochs, **settings, **rates)


def defended(digits: Dataset, defence: str, **kwargs: Any) -> PyTorchClassifier:
    """A defence of the suite. ART's trainers draw from numpy's global state."""
    state = np.random.get_state()
    np.random.seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        entry = DEFENCES[defence]
        classifier = entry.train(
            task(digits, **kwargs), {**entry.options, **({"max_iter": 5} if "madry" in defence else {})}
        )
    np.random.set_state(state)
    return classifier


def trained(
    digits: Dataset, make: Callable[[], nn.Module], epochs: int = 12, kind: Any = PyTorchClassifier, **kwargs: Any
) -> PyTorchClassifier:
    return wrap(digits, fitted(seeded(make), digits, epochs, **kwargs), kind)


def suite_model(digits: Dataset, name: str = "cnn-small", *choices: str) -> Callable[[], nn.Module]:
    return lambda: build_model(name, digits.input_shape, digits.nb_classes, *choices)


def penalised(digits: Dataset, *choices: str, sigma: float = 0.3, weight: float = 0.3) -> PyTorchClassifier:
    """Trained by this package's own trainer."""
    suite = task(digits)
    classifier = suite.classifier(seeded(suite_model(digits, "cnn-small", *choices)))
    penalties = [SensitivityPenalty(sigma=sigma, weight=weight), JacobianPenalty(weight=0.1)]
    trainer = SensRegTrainer(classifier, penalties, TrainingConfig(batch_size=64, nb_epochs=12, seed=0))
    trainer.fit(digits.x_train, digits.y_train, scheduler=suite.one_cycle(classifier), verbose=False)
    return classifier


# --- ordinary training ------------------------------------------------------------------------------------------------


@honest
def plain(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits))


@honest
def plain_of_sensreg_classifier(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits), kind=SensRegClassifier)


@honest
def plain_batch_norm(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits, "cnn-small", "relu", "batch"))


@honest
def linear(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), epochs=20, lr=2e-2)


@honest
def tiny_mlp(digits: Dataset) -> PyTorchClassifier:
    net = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))  # noqa: E731
    return trained(digits, net, epochs=25, lr=1e-2)


@honest
def tiny_cnn(digits: Dataset) -> PyTorchClassifier:
    def net() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))

    return trained(digits, net, epochs=20, lr=1e-2)


@honest
def resnet_gelu(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits, "resnet-small", "gelu"), epochs=6)


@honest
def resnet_batch_norm(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits, "resnet-small", "relu", "batch"), epochs=5)


@honest
def max_pool(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits, "lenet"))


@honest
def tanh_mlp(digits: Dataset) -> PyTorchClassifier:
    def net() -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
        )

    return trained(digits, net, epochs=15)


@honest
def silu_layer_norm(digits: Dataset) -> PyTorchClassifier:
    """Each image normalised by its own statistics: no fault."""

    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 10))

    return trained(digits, net)


# --- sure, unsure, bad ------------------------------------------------------------------------------------------------


@honest
def overtrained(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits), epochs=40)


@honest
def overtrained_wide_margins(digits: Dataset) -> PyTorchClassifier:
    """Without a decay of the learning rate and with a large one, logits grow to tens."""
    net = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))  # noqa: E731
    return trained(digits, net, epochs=40, lr=1e-2)


@honest
def weight_decayed(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits, "mlp"), epochs=20, weight_decay=4e-2)


@honest
def small_logits(digits: Dataset) -> PyTorchClassifier:
    """Trained to logits of about one, so that cross-entropy stays near that of guessing at right labels."""
    return trained(digits, suite_model(digits), loss=lambda z, y: F.cross_entropy(z, y) + 2 * z.pow(2).mean())


@honest
def label_smoothed(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits), loss=lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1))


@honest
def undertrained(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, suite_model(digits), epochs=1, lr=2e-3)


@honest
def dropout_in_training(digits: Dataset) -> PyTorchClassifier:
    def net() -> nn.Module:
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(1024, 64)]
        return nn.Sequential(*layers, nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))

    return trained(digits, net)


@honest
def noise_in_training(digits: Dataset) -> PyTorchClassifier:
    """Gaussian augmentation in training, nothing random at test time."""
    return trained(digits, suite_model(digits), transform=lambda x: x + 0.3 * torch.randn_like(x))


@honest
def ensemble(digits: Dataset) -> PyTorchClassifier:
    members = [fitted(seeded(suite_model(digits, "mlp"), seed), digits, 12, seed=seed) for seed in range(3)]
    return wrap(digits, Mean(members))


# --- architectures that look odd to a check ---------------------------------------------------------------------------


@honest
def clamped_input(digits: Dataset) -> PyTorchClassifier:
    """Clamping to the range that images have anyway, where many pixels lie exactly on its ends."""
    # Not `nn.Hardtanh`, whose gradient is zero on the ends: that one is a planted fault.
    return trained(digits, lambda: Front(suite_model(digits)(), lambda x: x.clamp(0, 1)))


@honest
def cropped_input(digits: Dataset) -> PyTorchClassifier:
    """The border is not looked at, so that its gradient is zero."""
    inner = replace(digits, x_train=digits.x_train[:, :, :, 1:7])
    return trained(digits, lambda: Front(suite_model(inner)(), lambda x: x[:, :, :, 1:7]))


@honest
def blurred_in_preprocessor(digits: Dataset) -> PyTorchClassifier:
    """A torch preprocessor of ART that autograd goes through."""
    model = fitted(seeded(suite_model(digits)), digits, 12, transform=blurred)
    return wrap(digits, model, preprocessing_defences=preprocessor(blurred)())


def blurred(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1)


@honest
def transformer(digits: Dataset) -> PyTorchClassifier:
    """Attention within the image; torch's fast path in evaluation mode differs from the other by rounding."""

    def net() -> nn.Module:
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        return nn.Sequential(Tokens(32), layer, nn.Flatten(), nn.Linear(512, 10))

    return trained(digits, net)


@honest
def recurrent(digits: Dataset) -> PyTorchClassifier:
    """ART takes gradients of recurrent models in training mode."""
    return trained(digits, Recurrent, epochs=20, lr=1e-2)


# --- defended ---------------------------------------------------------------------------------------------------------


@honest
def sr_jr(digits: Dataset) -> PyTorchClassifier:
    return penalised(digits)


@honest
def sr_jr_gelu(digits: Dataset) -> PyTorchClassifier:
    return penalised(digits, "gelu", sigma=0.4, weight=1.0)


@honest
def sr_jr_batch_norm(digits: Dataset) -> PyTorchClassifier:
    return penalised(digits, "relu", "batch")


@honest
def adversarial_01(digits: Dataset) -> PyTorchClassifier:
    return defended(digits, "art-madry", eps=0.1, epochs=8)


@honest
def adversarial_02(digits: Dataset) -> PyTorchClassifier:
    return defended(digits, "art-madry", eps=0.2, epochs=8)


@honest
def trades(digits: Dataset) -> PyTorchClassifier:
    return defended(digits, "art-trades-fixed", eps=0.15, epochs=6)


@honest
def fast_adversarial(digits: Dataset) -> PyTorchClassifier:
    return defended(digits, "art-fbf-fixed", eps=0.15)


# --- other interfaces -------------------------------------------------------------------------------------------------


@honest
def standardised(digits: Dataset) -> PyTorchClassifier:
    mean, std = float(digits.x_train.mean()), float(digits.x_train.std())
    model = fitted(seeded(suite_model(digits)), digits, 12, transform=lambda x: (x - mean) / std)
    return wrap(digits, model, preprocessing=(mean, std))


@honest
def float64(digits: Dataset) -> PyTorchClassifier:
    return trained(digits, lambda: suite_model(digits)().double(), kind=SensRegClassifier)


@honest
def log_softmax(digits: Dataset) -> PyTorchClassifier:
    """Logits less a constant per row: as good as logits."""
    return trained(digits, lambda: Back(suite_model(digits)(), lambda z: F.log_softmax(z, 1)))


@honest
def nll_loss(digits: Dataset) -> PyTorchClassifier:
    model = nn.Sequential(fitted(seeded(suite_model(digits)), digits, 12), nn.LogSoftmax(dim=1))
    return wrap(digits, model, loss=nn.NLLLoss())


@honest
def grey_values_to_255(digits: Dataset) -> PyTorchClassifier:
    """Takes images from 0 to 255; see `honest_data`."""
    model = fitted(seeded(suite_model(digits)), digits, 12, transform=lambda x: x / 255)
    return SensRegClassifier(
        nn.Sequential(Scale(), model),
        nn.CrossEntropyLoss(),
        digits.input_shape,
        10,
        clip_values=(0.0, 255.0),
        device_type="cpu",
    )


@honest
def two_classes(digits: Dataset) -> PyTorchClassifier:
    """Threes against eights; see `honest_data`."""
    return trained(digits, suite_model(digits))


def _to_255(digits: Dataset) -> Dataset:
    return replace(digits, x_train=digits.x_train * 255, x_test=digits.x_test * 255)


def _threes_and_eights(digits: Dataset) -> Dataset:
    parts: dict[str, np.ndarray] = {}
    for part in ("train", "test"):
        x, y = getattr(digits, f"x_{part}"), getattr(digits, f"y_{part}")
        kept = np.isin(y, (3, 8))
        parts |= {f"x_{part}": x[kept], f"y_{part}": (y[kept] == 8).astype(np.int64)}
    return replace(digits, **parts)


_DATA = {"grey_values_to_255": _to_255, "two_classes": _threes_and_eights}
_BUILT: dict[tuple[str, int], Honest] = {}


def honest_data(name: str, digits: Dataset) -> Dataset:
    """The digits as the model of that name takes them: all but two take them as they are."""
    return _DATA[name](digits) if name in _DATA else digits


def honest_model(name: str, digits: Dataset) -> Honest:
    """A trained model with the test images and labels that belong to it; each is trained once in a process."""
    key = (name, digits.crc32)  # a data set cannot be hashed, as `functools.cache` would need
    if key not in _BUILT:
        data = honest_data(name, digits)
        _BUILT[key] = (HONEST[name](data), data.x_test, data.y_test)
    return _BUILT[key]


def honest_models(digits: Dataset) -> dict[str, Honest]:
    """All honest models with their test images and labels."""
    return {name: honest_model(name, digits) for name in HONEST}
