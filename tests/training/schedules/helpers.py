"""A small run that records its learning rates."""

import numpy as np
import torch
from torch import nn

from art_sensreg import SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback

X = np.random.default_rng(0).random((40, 4)).astype("float32")


Y = np.arange(40) % 2


STEPS, EPOCHS = 10, 5  # of an epoch of batches of 4; epochs of a run


def classifier():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return SensRegClassifier(
        model, nn.CrossEntropyLoss(), (4,), 2, optimizer=optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )


class Rates(Callback):
    """The learning rate that each step was done with."""

    def __init__(self, optimizer):
        self.optimizer, self.rates = optimizer, []
        optimizer.register_step_pre_hook(lambda *_: self.rates.append(optimizer.param_groups[0]["lr"]))

    def on_end(self, state):
        """Nothing; it makes this a callback."""


def rates_of(make, epochs=EPOCHS, validation=False, **config):
    trained = classifier()
    scheduler = make(trained.optimizer)
    record = Rates(trained.optimizer)
    trainer = SensRegTrainer(trained, [], TrainingConfig(seed=0, batch_size=4, **config))
    data = (X, Y) if validation else None
    trainer.fit(X, Y, data, nb_epochs=epochs, scheduler=scheduler, verbose=False)
    return record.rates


def by_hand(make, calls_per_epoch, epochs=EPOCHS):
    """The learning rates of plain torch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(epochs):
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if calls_per_epoch == STEPS:
                scheduler.step()
        if calls_per_epoch == 1:
            scheduler.step()
    return rates
