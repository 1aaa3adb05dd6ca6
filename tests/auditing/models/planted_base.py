"""What the planted faults are made of: the record, the wrapping into ART, and short training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn
from torch.nn import functional as F

from art_sensreg.datasets import Dataset

Transform = Callable[[torch.Tensor], torch.Tensor]
Build = Callable[[Dataset, nn.Module], PyTorchClassifier]


@dataclass(frozen=True)
class Planted:
    """A deceptive model: its name, what is wrong with it, and how it is made of the data and an honest model."""

    name: str
    fault: str
    build: Build


def wrap(digits: Dataset, model: nn.Module, kind: type[PyTorchClassifier] = PyTorchClassifier, **kwargs: Any) -> Any:
    """An ART classifier on the CPU."""
    settings = {"loss": nn.CrossEntropyLoss(), "clip_values": (0.0, 1.0), "device_type": "cpu", **kwargs}
    return kind(model=model, input_shape=digits.input_shape, nb_classes=digits.nb_classes, **settings)


def planted(
    name: str, fault: str, make: Callable[[Dataset, nn.Module], nn.Module], kind: Any = PyTorchClassifier, **kwargs: Any
) -> Planted:
    """A fault that is a module around a copy of the honest model; `kwargs` go to the ART classifier."""

    def build(digits: Dataset, base: nn.Module) -> PyTorchClassifier:
        # A copy, so that one fault's hooks and training never reach the next one's model.
        model = make(digits, copy.deepcopy(base)).eval()
        # Deferred: defences keep state, and one object would be shared by all classifiers built.
        made = {key: value() if isinstance(value, type) else value for key, value in kwargs.items()}
        return wrap(digits, model, kind, **made)

    return Planted(name, fault, build)


def front(name: str, fault: str, transform: Transform, kind: Any = PyTorchClassifier, epochs: int = 0) -> Planted:
    """A fault that is a function of the images; with `epochs`, the model is first trained on what it returns."""

    def make(digits: Dataset, base: nn.Module) -> nn.Module:
        return Front(fitted(base, digits, epochs, transform=transform) if epochs else base, transform)

    return planted(name, fault, make, kind)


class Front(nn.Module):
    """`base(transform(x))`."""

    def __init__(self, base: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.base = base
        self.transform = transform

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(self.transform(x))
        return logits


class Back(nn.Module):
    """`transform(base(x))`."""

    def __init__(self, base: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.base = base
        self.transform = transform

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.transform(self.base(x))


def preprocessor(transform: Transform) -> type[PreprocessorPyTorch]:
    """A torch preprocessor of ART without a differentiable estimate."""

    class Preprocessor(PreprocessorPyTorch):
        def __init__(self) -> None:
            super().__init__(device_type="cpu", is_fitted=True, apply_fit=True, apply_predict=True)

        def forward(self, x: torch.Tensor, y: Any = None) -> tuple[torch.Tensor, Any]:
            return transform(x), y

    return Preprocessor


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How `fitted` trains."""

    seed: int = 0
    lr: float = 3e-3
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy
    weight_decay: float = 0.0


def fitted(
    model: nn.Module, digits: Dataset, epochs: int, transform: Transform | None = None, **settings: Any
) -> nn.Module:
    """The model after some epochs of one-cycle Adam, as the suite trains; the caller's random state is left alone."""
    fit = Fit(**settings)
    x, y = torch.from_numpy(digits.x_train), torch.from_numpy(digits.y_train)
    optimizer = torch.optim.Adam(model.parameters(), lr=fit.lr, weight_decay=fit.weight_decay)
    batches = -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, fit.lr, total_steps=epochs * batches + 1)
    dtype = next(model.parameters()).dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fit.seed)
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                images = x[rows].to(dtype) if transform is None else transform(x[rows].to(dtype))
                value = fit.loss(model(images), y[rows])
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module whose initial weights are those of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
