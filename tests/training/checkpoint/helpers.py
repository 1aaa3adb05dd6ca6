"""A small program that trains, of which any part can be changed."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from art_sensreg import SensRegClassifier, SensRegTrainer, TrainingConfig

X = np.random.default_rng(0).random((150, 4), dtype=np.float32)


Y = np.arange(150) % 3


PENALTY = "def ridge(model, x, y):\n    return {factor} * model(x).pow(2).mean()"


def one_changed(values, index=1):
    """The same but for one entry of the second row: a sample of every second row does not see it."""
    values = values.copy()
    values[index] = values[index] * 0.5 if values.dtype.kind == "f" else (values[index] + 1) % 3
    return values


def penalty(factor=1.0, helper="x"):
    """A penalty as a user's program defines it, anew in each process."""
    names = {"__name__": "__main__"}
    exec(PENALTY.format(factor=factor), names)
    return names["ridge"]


class Ridge:
    weight, name = 0.1, "ridge"

    def __init__(self, power=2, values=(1.0, 2.0)):
        self.power, self.values, self.calls = power, np.array(values), 0

    def __call__(self, model, x, y):
        self.calls += 1
        return self.values.mean() * model(x).pow(self.power).mean()


class Net(nn.Sequential):
    """Two modules with the same parts and another way through them."""

    scale = 1.0

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.factor = 1.0
        self.register_buffer("shift", torch.zeros(4), persistent=False)

    def forward(self, x):
        return super().forward(self.factor * x + self.shift)


@dataclass
class Run:
    """What a program that trains asks for."""

    net: object = None
    loss: object = None
    optimizer: object = None
    penalties: object = ()
    adversary: object = None
    x: object = None
    y: object = None
    validation: object = None
    scheduler: object = None
    clip_values: object = (0.0, 1.0)
    preprocessing: object = None
    defences: object = None
    config: object = None
    epochs: int = 1
    frozen: str = ""
    prepare: object = None

    def start(self, folder, resume=False):
        torch.manual_seed(0)
        net = Net() if self.net is None else self.net()
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name != self.frozen)
        optimizer = self.optimizer(net) if self.optimizer else torch.optim.Adam(net.parameters(), 1e-2)
        if self.prepare is not None:
            self.prepare(net, optimizer)
        classifier = SensRegClassifier(
            net, nn.CrossEntropyLoss() if self.loss is None else self.loss, (4,), 3, optimizer=optimizer,
            clip_values=self.clip_values, preprocessing=self.preprocessing, preprocessing_defences=self.defences,
            device_type="cpu",
        )  # fmt: skip
        config = TrainingConfig(**{"seed": 0, "batch_size": 75, **(self.config or {})})
        trainer = SensRegTrainer(classifier, list(self.penalties), config, adversary=self.adversary)
        x, y = X if self.x is None else self.x, Y if self.y is None else self.y
        scheduler = self.scheduler(optimizer) if self.scheduler else None
        trainer.fit(
            x, y, validation_data=self.validation, nb_epochs=self.epochs, scheduler=scheduler, checkpoint_dir=folder,
            resume=resume, verbose=False,
        )  # fmt: skip
        return trainer
