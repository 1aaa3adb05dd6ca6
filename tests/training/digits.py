"""Short runs on the digits."""

import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback

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
