"""Adversaries, and a small problem to try them on."""

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES, CarriedAdversary, NuAT

LOSS = nn.CrossEntropyLoss()
NUAT = NuAT(eps=0.1, weight=1.0)
ALL = [FGSMRS(eps=0.1), NFGSM(eps=0.1), PGD(eps=0.1), PGD(eps=0.5, norm="l2"), TRADES(eps=0.1, max_iter=3), NUAT]
ALL += [CarriedAdversary(eps=0.1), CarriedAdversary(eps=0.5, norm="l2"), CarriedAdversary(eps=0.1, free=True)]
SR_JR = [SensitivityPenalty(), JacobianPenalty()]


def draw_batch(n=32, d=12, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator), torch.randint(0, classes, (n,), generator=generator)


def small_net(d=12, classes=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 16), nn.ReLU(), nn.Linear(16, classes))


def trainer_of(adversary, penalties=(), seed=0, **config):
    model = small_net(seed=seed)
    classifier = PyTorchClassifier(
        model,
        LOSS,
        (12,),
        4,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    return SensRegTrainer(classifier, list(penalties), TrainingConfig(seed=0, **config), adversary=adversary)


def prototypes(n=400):
    """Four classes around four corners: learnable, with room for robustness."""
    generator = np.random.default_rng(0)
    y = np.arange(n) % 4
    corners = np.repeat(np.eye(4), 3, axis=1)[:, :12] * 0.6 + 0.2
    return np.clip(corners[y] + 0.08 * generator.standard_normal((n, 12)), 0, 1).astype(np.float32), y
