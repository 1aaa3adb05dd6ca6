"""A small program that trains, of which any part can be changed; trees to store, and how to compare them."""

import json
import math
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from art_sensreg import SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.training.checkpoint.folder import list_checkpoints

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


SMALL = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "losses": [0.1, math.inf], 'é\x1f"\\': (b"\x00", None)}


def same(a, b):
    """Equal to the last bit, and of the same type."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and same(tensor_bytes(a), tensor_bytes(b))
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(m, n) for m, n in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(m, n) for m, n in zip(a, b, strict=True))
    return a == b


def tensor_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def header(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool]


FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(folder):
    return [int(path.name[11:-12]) for path in list_checkpoints(folder)]
