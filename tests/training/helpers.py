"""Small classifiers and data, short runs on them, and training written by hand in plain torch to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from art_sensreg.utils.rng import derive_seed

X = np.random.default_rng(0).random((24, 4)).astype("float32")


Y = np.arange(24) % 3


def small_model(*layers: nn.Module) -> nn.Module:
    """A network with fixed weights, `layers` after the first activation."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), *layers, nn.Linear(8, 3))


def classifier_of(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, loss: Any = None, **options: Any
) -> SensRegClassifier:
    """A classifier on the CPU; plain SGD unless told otherwise."""
    return SensRegClassifier(
        model,
        nn.CrossEntropyLoss() if loss is None else loss,
        (4,),
        3,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5) if optimizer is None else optimizer,
        clip_values=(0.0, 1.0),
        device_type="cpu",
        **options,
    )


def batches_of(seed: int, epochs: int, batch_size: int, n: int = len(X)) -> list[torch.Tensor]:
    """The rows of every step, as the loop draws them."""
    rows: list[torch.Tensor] = []
    for epoch in range(1, epochs + 1):
        order = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
        rows.extend(torch.randperm(n, generator=order).split(batch_size))
    return rows


def by_hand(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    epochs: int,
    batch_size: int,
    clip: tuple[list[torch.Tensor], float] | None = None,
) -> None:
    """Plain training: `objective(x, y)` is minimised."""
    model.train()
    for rows in batches_of(0, epochs, batch_size):
        x, y = torch.from_numpy(X)[rows], torch.from_numpy(Y)[rows]
        for parameter in model.parameters():
            parameter.grad = None
        optimizer.zero_grad()
        objective(x, y).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(*clip)
        optimizer.step()


def close(first: list[torch.Tensor], second: list[torch.Tensor], atol: float = 1e-5) -> bool:
    """Equal but for rounding."""
    return all(torch.allclose(a, b, atol=atol) for a, b in zip(first, second, strict=True))


class StopAfter(Callback):
    """Ends a run after some steps, without an error."""

    def __init__(self, after):
        self.after = after

    def on_step(self, state):
        state.stop = state.total_steps == self.after


class Arm(Callback):
    """Tells modules that ask for it the number of the step, from 1: before the first one the model has been tried."""

    def on_start(self, state):
        for module in state.model.modules():
            if hasattr(module, "step"):
                module.step = state.total_steps + 1

    on_step = on_start


def fit_armed(model, penalties=(), epochs=2, folder=None, **config):
    callbacks, resume = [Arm(), *config.pop("callbacks", ())], config.pop("resume", False)
    trainer = SensRegTrainer(
        classifier_of(model, torch.optim.SGD(model.parameters(), lr=0.1)),
        list(penalties),
        TrainingConfig(**{"seed": 0, "batch_size": 8, **config}, callbacks=callbacks),
    )
    trainer.fit(X, Y, nb_epochs=epochs, checkpoint_dir=folder, resume=resume, verbose=False)
    return trainer


PENALTIES = [SensitivityPenalty(), JacobianPenalty()]


class Stop(Callback):
    """Ends a run after some steps, as an error in the user's code would."""

    def __init__(self, after):
        self.after = after

    def on_step(self, state):
        if state.total_steps == self.after:
            raise InterruptedError


def fit_digits(classifier, digits, penalties=PENALTIES, n=200, validation=False, **options):
    """Train on `n` images; `options` are `epochs`, `scheduler`, and settings of `TrainingConfig`."""
    epochs, scheduler = options.pop("epochs", 2), options.pop("scheduler", None)
    trainer = SensRegTrainer(classifier, list(penalties), TrainingConfig(**{"seed": 0, "batch_size": 50, **options}))
    x, y = digits.x_train[:n], digits.y_train[:n]
    held_out = (digits.x_test[:100], digits.y_test[:100]) if validation else None
    trainer.fit(x, y, held_out, nb_epochs=epochs, scheduler=scheduler, verbose=False)
    return trainer


def fit_into(classifier, digits, folder=None, penalties=PENALTIES, n=200, **options):
    """The same with checkpoints in a folder; `options` are `resume` too."""
    epochs, resume, scheduler = options.pop("epochs", 3), options.pop("resume", False), options.pop("scheduler", None)
    trainer = SensRegTrainer(classifier, list(penalties), TrainingConfig(**{"seed": 0, "batch_size": 50, **options}))
    x, y = digits.x_train[:n], digits.y_train[:n]
    trainer.fit(x, y, nb_epochs=epochs, checkpoint_dir=folder, resume=resume, scheduler=scheduler, verbose=False)
    return trainer


def classifier_around(model, loss=None, **options):
    """A classifier of digits with Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    settings = {"optimizer": optimizer, "clip_values": (0.0, 1.0), "device_type": "cpu", **options}
    return SensRegClassifier(model, loss or nn.CrossEntropyLoss(), (1, 8, 8), 10, **settings)
