"""
A training run that can be killed: `python interrupted.py CHECKPOINTS RESULT [resume]`.

It has all that a checkpoint must hold: dropout, a schedule, averaged weights, penalties, validation under attack.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback, ValidationAttack


class Beacon(Callback):
    """Tells the test that steps are being done, and slows them down so that it can aim."""

    def on_step(self, state):
        if state.total_steps == 1 or state.step == 1:
            print("step", state.total_steps, flush=True)
        np.random.rand()

    def state_dict(self):
        return {"drawn": np.random.get_state()[2]}


def main(checkpoints, result, resume):
    torch.manual_seed(0)
    np.random.seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(512, 10)
    )
    rng = np.random.default_rng(0)
    x, y = rng.random((600, 1, 8, 8), dtype=np.float32), np.arange(600) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, optimizer=optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )
    config = TrainingConfig(
        batch_size=32,
        seed=0,
        ema=0.99,
        max_grad_norm=1.0,
        checkpoint_every=7,
        validation_attack=ValidationAttack(eps=0.1, max_iter=2),
        restore_best=True,
        callbacks=[Beacon()],
    )
    trainer = SensRegTrainer(classifier, [SensitivityPenalty(sigma=(0.1, 0.3)), JacobianPenalty()], config)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=19 * 8)
    trainer.fit(
        x,
        y,
        (x[:100], y[:100]),
        nb_epochs=8,
        scheduler=scheduler,
        checkpoint_dir=checkpoints,
        resume=resume,
        verbose=False,
    )
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file({**weights, "random": torch.tensor(np.random.rand())}, result)
    history = [[v for k, v in record.items() if k != "seconds"] for record in trainer.history]
    Path(result).with_suffix(".txt").write_text(repr(history))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], sys.argv[3:] == ["resume"])
