"""How often a training step makes the host wait for the device: at most once, to learn whether the step is finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import (
    Augmentation,
    FisherRaoPenalty,
    GradientDiversityPenalty,
    JacobianPenalty,
    SensitivityPenalty,
    SensRegClassifier,
    SensRegTrainer,
    TrainingConfig,
)
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES, CarriedAdversary
from art_sensreg.randomization import randomize
from tests.device.counting import transfers, waits

SR, SHARED = SensitivityPenalty(sigma=0.3), JacobianPenalty()
AUGMENTATION = Augmentation(crop_padding=2, flip=True, cutout=2)
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sr": {"penalties": [SR]},
    "sr+jr": {"penalties": [SR, SHARED]},
    "sphere": {"penalties": [SensitivityPenalty(noise="sphere"), SHARED]},
    "rademacher": {"penalties": [SensitivityPenalty(noise="rademacher", probes=2)]},
    "clip": {"penalties": [SensitivityPenalty(clip=True)]},
    "relative": {"penalties": [SensitivityPenalty(scale="relative", distance="absolute")]},
    "most sensitive layers": {
        "penalties": [SensitivityPenalty(layers="hidden+logits", top_layers=1, scale="relative")]
    },
    "sigma per feature": {"penalties": [SensitivityPenalty(sigma=np.full((1, 6, 6), 0.3)), SHARED]},
    "sigma range": {"penalties": [SensitivityPenalty(sigma=(0.1, 0.3)), SHARED]},
    "jr projection": {"penalties": [JacobianPenalty(estimator="projection")]},
    "jr exact": {"penalties": [JacobianPenalty(estimator="exact")]},
    "jr norm": {"penalties": [JacobianPenalty(estimator="exact", squared=False)]},
    "jr nuclear": {"penalties": [SR, JacobianPenalty(norm="nuclear")]},
    "fire": {"penalties": [FisherRaoPenalty(eps=0.1, eps_step=0.05, max_iter=3)]},
    "graddiv": {"penalties": [GradientDiversityPenalty(weight=0.1, samples=3)], "random": True},
    "graddiv mean": {"penalties": [GradientDiversityPenalty(weight=0.1, samples=3, kind="mean")], "random": True},
    "graddiv dpp": {"penalties": [GradientDiversityPenalty(weight=0.1, samples=3, kind="dpp")], "random": True},
    "fgsm-rs": {"penalties": [SR, SHARED], "adversary": FGSMRS(eps=0.1)},
    "fgsm-rs pair": {"penalties": [SR, SHARED], "adversary": FGSMRS(eps=0.1, pair="adversarial", clean_fraction=0.5)},
    "n-fgsm watched": {"adversary": NFGSM(eps=0.1), "on_catastrophic_overfitting": "report"},
    "n-fgsm": {"penalties": [SR], "adversary": NFGSM(eps=0.1)},
    "pgd": {"penalties": [SR], "adversary": PGD(eps=0.1, max_iter=3)},
    "pgd l2": {"adversary": PGD(eps=0.5, max_iter=3, norm="l2")},
    "trades": {"penalties": [SR], "adversary": TRADES(eps=0.1, max_iter=3)},
    "carried": {"adversary": CarriedAdversary(eps=0.1)},
    "carried+sr+jr": {"penalties": [SR, SHARED], "adversary": CarriedAdversary(eps=0.1)},
    "carried l2": {"penalties": [SR, SHARED], "adversary": CarriedAdversary(eps=0.1, norm="l2")},
    "free": {"penalties": [SR, SHARED], "adversary": CarriedAdversary(eps=0.1, free=True)},
    "free+sr+jr": {"penalties": [SR, SHARED], "adversary": CarriedAdversary(eps=0.1, free=True, pair="adversarial")},
    "ema": {"penalties": [SR], "ema": 0.9},
    "clipped": {"penalties": [SR], "max_grad_norm": 1.0},
    "warm-up": {"penalties": [SR], "penalty_warmup": 0.5},
    "warm-up of eps": {"penalties": [SR], "adversary": CarriedAdversary(eps=0.1), "eps_warmup": 0.5},
    "fraction": {"penalties": [SR, SHARED], "penalty_fraction": 0.5},
    "bfloat16": {"penalties": [SR], "precision": "bfloat16"},
    "float16": {"penalties": [SR], "precision": "float16", "max_grad_norm": 1.0},
    "channels last": {"penalties": [SR], "channels_last": True},
    "without fused optimizer": {"penalties": [SR], "precision": "float16", "optimizer": torch.optim.RMSprop},
    "dropout": {"penalties": [SR, SHARED], "dropout": True},
    "skip": {"penalties": [SR], "on_nonfinite": "skip"},
    "augmented": {"penalties": [SR, SHARED], "augmentation": AUGMENTATION},
    "augmented carried": {
        "penalties": [SR, SHARED],
        "adversary": CarriedAdversary(eps=0.1),
        "augmentation": AUGMENTATION,
    },
    "accumulated": {"penalties": [SR, SHARED], "accumulate": 2},
}


def network(random: bool = False, dropout: bool = False) -> nn.Module:
    torch.manual_seed(0)
    dropped: list[nn.Module] = [nn.Dropout(0.2)] if dropout else []
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), *dropped, nn.Flatten(), nn.Linear(64, 3)]
    model = nn.Sequential(*layers)
    return randomize(model, "rse") if random else model


class CountedSteps:
    """Callback: waits of the host from the end of one step to that of the next."""

    def __init__(self) -> None:
        self.counted = transfers()
        self.steps: list[Any] = []

    def on_start(self, state: Any) -> None:
        self.counter = self.counted.__enter__()

    def on_step(self, state: Any) -> None:
        if state.step > 1:  # after another of the same epoch
            self.steps.append(waits(self.counter))
        self.counter.clear()

    def on_end(self, state: Any) -> None:
        self.counted.__exit__(None, None, None)


def train(device: str, callbacks: Any = (), **case: Any) -> SensRegClassifier:
    penalties, adversary = case.pop("penalties", ()), case.pop("adversary", None)
    model = network(case.pop("random", False), case.pop("dropout", False))
    kind = case.pop("optimizer", torch.optim.Adam)
    optimizer = kind(model.parameters(), lr=0.01)
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), (1, 6, 6), 3, optimizer, clip_values=(0, 1), device_type=device
    )
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(40, 1, 6, 6, generator=generator).numpy()
    y = torch.randint(3, (40,), generator=generator).numpy()
    case.setdefault("on_catastrophic_overfitting", "ignore")
    config = TrainingConfig(batch_size=10, nb_epochs=2, seed=0, callbacks=callbacks, **case)
    trainer = SensRegTrainer(classifier, penalties, adversary=adversary, config=config)
    trainer.fit(x, y, batch_size=10, nb_epochs=2, verbose=False)
    return classifier


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_once_and_gives_the_numbers_of_the_cpu(name):
    counted = CountedSteps()
    ours = train("gpu", [counted], **CASES[name])
    assert len(counted.steps) == (2 if "accumulate" in CASES[name] else 6)
    for step in counted.steps:
        assert sum(step.values()) <= 1, step
    if CASES[name].get("precision", "float32") == "float32":
        theirs = train("cpu", **CASES[name])
        for one, other in zip(ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-5)
