"""
Networks of the digits whose weights are files, so that a bound on an attack is a bound on the same network everywhere:
trained anew, they would differ from one instruction set to another. `python -m tests.support.fixed_weights` makes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegClassifier
from art_sensreg.datasets import Dataset, load_dataset
from art_sensreg.models import build_model

FOLDER = Path(__file__).parents[1] / "weights"
SHAPE = (1, 8, 8)


def linear(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def mlp() -> nn.Module:
    return build_model("mlp", SHAPE, 10)


def cnn() -> nn.Module:
    return build_model("cnn-small", SHAPE, 10)


def _fit(model: nn.Module, data: Dataset, penalties: list, nb_epochs: int, batch_size: int = 64) -> None:
    classifier = SensRegClassifier(
        model,
        nn.CrossEntropyLoss(),
        SHAPE,
        10,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        clip_values=(0.0, 1.0),
        penalties=penalties,
        device_type="cpu",
    )
    classifier.fit(data.x_train, data.y_train, nb_epochs=nb_epochs, batch_size=batch_size, seed=0)


def _regress(model: nn.Module, data: Dataset, labels: int) -> None:
    """Ten classes, or even and odd digits, whose two logits are opposite."""
    found = LogisticRegression(max_iter=300).fit(data.x_train.reshape(-1, 64), data.y_train % labels)
    weight, bias = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
    if labels == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        model[1].weight.copy_(weight)
        model[1].bias.copy_(bias)


Train = Callable[[nn.Module, Dataset], None]
NETWORKS: dict[str, tuple[int, Callable[[], nn.Module], Train]] = {
    # name: seed, architecture, training
    "mlp": (0, mlp, lambda model, data: _fit(model, data, [], 15, 128)),
    "mlp-1": (1, mlp, lambda model, data: _fit(model, data, [], 15, 128)),
    "mlp-2": (2, mlp, lambda model, data: _fit(model, data, [], 15, 128)),
    "mlp-smoothed": (0, mlp, lambda model, data: _fit(model, data, [SensitivityPenalty(sigma=0.2)], 10)),
    "cnn": (0, cnn, lambda model, data: _fit(model, data, [], 12)),
    "cnn-smoothed": (0, cnn, lambda model, data: _fit(model, data, [SensitivityPenalty(sigma=0.2)], 8)),
    "linear": (0, lambda: linear(10), lambda model, data: _regress(model, data, 10)),
    "linear-odd": (0, lambda: linear(2), lambda model, data: _regress(model, data, 2)),
}


def fixed(name: str) -> nn.Module:
    """
    One of :data:`NETWORKS` in evaluation mode, a new copy each time.

    :param name: Its name.
    :return: The network.
    """
    _, build, _ = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        model = build()
    model.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))
    return model.eval()


def make(name: str) -> None:
    """
    Train a network and write its weights.

    :param name: Its name.
    """
    seed, build, train = NETWORKS[name]
    torch.manual_seed(seed)
    model = build()
    train(model, load_dataset("digits"))
    FOLDER.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, FOLDER / f"{name}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or NETWORKS:
        make(chosen)
        print(FOLDER.name, chosen, (FOLDER / f"{chosen}.safetensors").stat().st_size)
