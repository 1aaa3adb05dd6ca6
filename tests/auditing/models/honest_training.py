"""Honest models by how they are trained: well or badly, with or without a defence."""

from __future__ import annotations

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional as F

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from tests.auditing.models.honest_base import defended, honest, penalised, suite_model, trained
from tests.auditing.models.honest_modules import Mean
from tests.auditing.models.planted_base import fitted, seeded, wrap


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
