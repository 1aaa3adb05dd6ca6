"""
A training run for `torchrun`: `run.py RESULT [CHECKPOINTS]`. With KILL=step the second process dies there.

301 images in batches of 50: the last batch has one image, and so one of two processes has none of it.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from art_sensreg import (
    Augmentation,
    FisherRaoPenalty,
    JacobianPenalty,
    SensitivityPenalty,
    SensRegClassifier,
    SensRegTrainer,
    TrainingConfig,
)
from art_sensreg.adversaries import FGSMRS, PGD, TRADES, CarriedAdversary, Free
from art_sensreg.models import build_model
from art_sensreg.training import Callback, ValidationAttack
from art_sensreg.training.distributed import join_processes, leave_processes

ADVERSARIES = {
    "noisy": PGD(eps=0.05, max_iter=2, clean_fraction=0.5),
    "adversarial": FGSMRS(eps=0.05, clean_fraction=0.5, pair="adversarial"),
    "carried": CarriedAdversary(eps=0.05),
    "free": CarriedAdversary(eps=0.05, free=True, norm="l2"),
    "replays": Free(eps=0.05, replays=2),
    "trades": TRADES(eps=0.05, max_iter=2, pair="adversarial"),
}


class Tempered(nn.Module):
    """A mean or sum with a learnable temperature."""

    def __init__(self, reduction):
        super().__init__()
        self.reduction, self.scale = reduction, nn.Parameter(torch.tensor(1.0))

    def forward(self, logits, y):
        return nn.functional.cross_entropy(logits * self.scale, y, reduction=self.reduction)


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_step(self, state):
        self.losses.append(float(state.terms["loss"]))
        if state.rank == 1 and state.total_steps == int(os.environ.get("KILL", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        if state.rank == 0 and state.total_steps == int(os.environ.get("STOP", "0")):
            state.stop = True

    def state_dict(self):
        return {"losses": self.losses}

    def load_state_dict(self, state):
        self.losses = state["losses"]


def main(result, checkpoints=None):
    rng = np.random.default_rng(0)
    y = np.arange(301) % 10
    x = (rng.random((301, 1, 8, 8)) / 2 + y[:, None, None, None] / 20).astype(np.float32)
    torch.manual_seed(0)
    model = build_model("cnn-small", (1, 8, 8), 10, norm_layer=os.environ.get("NORM", "none"))
    loss = Tempered(os.environ["REDUCTION"]) if "REDUCTION" in os.environ else nn.CrossEntropyLoss()
    trained = [*model.parameters(), *loss.parameters()]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
    classifier = SensRegClassifier(
        model, loss, (1, 8, 8), 10, optimizer=optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )
    penalties = [
        SensitivityPenalty(sigma=(0.1, 0.3), probes=2),
        JacobianPenalty(),
        JacobianPenalty(weight=0.01, estimator="projection"),
    ]
    if os.environ.get("ADVERSARY") == "adversarial":  # what belongs to the whole batch
        penalties[:2] = [
            SensitivityPenalty(weight=0.1, scale="relative", top_layers=1),
            JacobianPenalty(weight=0.01, norm="nuclear"),
        ]
    losses, accumulate = Losses(), int(os.environ.get("ACCUMULATE", "1"))
    config = TrainingConfig(
        seed=0,
        batch_size=50 // accumulate,
        accumulate=accumulate,
        max_grad_norm=1.0 if "REDUCTION" in os.environ else None,
        callbacks=[losses],
        augmentation=Augmentation(crop_padding=2, flip=True, cutout=3) if os.environ.get("AUGMENT") else None,
        awp_gamma=float(os.environ.get("AWP", "0")),
        penalty_fraction=float(os.environ.get("FRACTION", "1")),
        validation_attack=ValidationAttack(eps=0.1, max_iter=2),
    )
    if os.environ.get("ADVERSARY") == "carried":
        penalties = penalties[:2]
    elif os.environ.get("ADVERSARY"):
        penalties.append(FisherRaoPenalty(weight=0.5, eps=0.05, eps_step=0.03, max_iter=2))
    adversary = ADVERSARIES.get(os.environ.get("ADVERSARY"))
    trainer = SensRegTrainer(classifier, penalties, config, adversary=adversary)
    trainer.fit(
        x, y, (x[:103], y[:103]), nb_epochs=3, checkpoint_dir=checkpoints, resume=checkpoints is not None, verbose=False
    )
    rank = os.environ.get("RANK", "0")
    torch.save({name: value.clone() for name, value in model.state_dict().items()}, f"{result}.{rank}")
    if rank == "0":
        history = [{k: v for k, v in record.items() if k != "seconds"} for record in trainer.history]
        weights = [parameter.detach() for parameter in trained]
        torch.save({"losses": losses.losses, "weights": weights, "history": history}, result)
    return trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    join_processes(torch.device("cpu"))  # first of all, as the suite does
    trainer = main(*sys.argv[1:])  # kept to the end, as a user's script does
    leave_processes()
    tasks = Path("/proc/self/task")  # Linux
    names = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.exists() else []
    if any("gloo" in name for name in names):
        raise RuntimeError(f"threads of the process group are left: {names}")
