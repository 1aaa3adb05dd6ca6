"""Trainers, checkpoints and the suite on the device: the numbers of the CPU."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import (
    FIRETrainer,
    GradDivTrainer,
    JacobianPenalty,
    RandomizedClassifier,
    SensitivityPenalty,
    SensRegClassifier,
    SensRegTrainer,
    TrainingConfig,
)
from art_sensreg.adversaries import PGD
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.randomization import randomize
from tests.device.counting import transfers, waits

GENERATOR = torch.Generator().manual_seed(3)
X = torch.rand(40, 1, 6, 6, generator=GENERATOR).numpy()
Y = torch.randint(3, (40,), generator=GENERATOR).numpy()


def make(device: str, random: bool = False, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()]
    model: nn.Module = nn.Sequential(*layers, nn.Linear(64, 3))
    model = randomize(model, "rse") if random else model
    kind = RandomizedClassifier if random else SensRegClassifier
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return kind(
        model, nn.CrossEntropyLoss(), (1, 6, 6), 3, optimizer, clip_values=(0, 1), device_type=device,
        preprocessing=(0.5, 0.5),
    )  # fmt: skip


def config(**settings: Any) -> TrainingConfig:
    return TrainingConfig(batch_size=10, nb_epochs=2, seed=0, **settings)


TRAINERS = {
    "fire": lambda c: FIRETrainer(c, config=config(), eps=0.1, eps_step=0.05, max_iter=2),
    "graddiv": lambda c: GradDivTrainer(c, config=config(), weight=0.1, samples=3, adversary=PGD(eps=0.1, max_iter=2)),
    "sensreg": lambda c: SensRegTrainer(c, [SensitivityPenalty(), JacobianPenalty()], config(ema=0.9)),
}


@pytest.mark.parametrize("name", TRAINERS)
def test_trainers(name):
    trained = []
    for device in ("gpu", "cpu"):
        trainer = TRAINERS[name](make(device, random=name == "graddiv"))
        trainer.fit(X, Y, validation_data=(X, Y), batch_size=10, nb_epochs=2, verbose=False)
        trained.append((trainer.get_classifier(), trainer.history))
    (ours, history), (theirs, expected) = trained
    for one, other in zip(ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True):
        assert one.device.type != "cpu"
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-5)
    assert history[-1]["loss"] == pytest.approx(expected[-1]["loss"], abs=1e-5)
    if name != "graddiv":  # which draws from each device's own generator
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(precision, tmp_path):
    def weights(folder: str, epochs: tuple[int, ...]) -> list[torch.Tensor]:
        for count in epochs:
            classifier = make("gpu", dropout=0.2)
            penalties = [SensitivityPenalty(), JacobianPenalty()]
            trainer = SensRegTrainer(classifier, penalties, config(ema=0.9, precision=precision))
            where = {"checkpoint_dir": tmp_path / folder, "resume": True}
            trainer.fit(X, Y, batch_size=10, nb_epochs=count, verbose=False, **where)
        return list(classifier.model.state_dict().values())

    for one, other in zip(weights("whole", (3,)), weights("parts", (1, 2, 3)), strict=True):
        assert torch.equal(one, other)


def test_weights_go_through_files(tmp_path):
    ours = make("gpu")
    ours.fit(X, Y, config=config())
    ours.save("net", str(tmp_path))
    for device in ("gpu", "cpu"):
        other = make(device)
        other.load_weights("net", str(tmp_path))
        np.testing.assert_allclose(other.predict(X), ours.predict(X), rtol=1e-4, atol=1e-5)
        other.fit(X, Y, config=config())


def test_a_step_that_is_not_finite_leaves_weights_and_scale(caplog):
    class Once(nn.Module):
        calls = 0

        def forward(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            Once.calls += 1
            return model(x).sum() * (float("nan") if Once.calls == 2 else 0.0)

    seen: list[list[torch.Tensor]] = []

    class Steps:
        def on_step(self, state: Any) -> None:
            seen.append([parameter.detach().clone() for parameter in state.model.parameters()])

    for precision in ("float32", "float16"):
        Once.calls = 0
        seen.clear()
        settings = config(on_nonfinite="skip", precision=precision, callbacks=[Steps()])
        SensRegTrainer(make("gpu"), [Once()], settings).fit(X, Y, batch_size=10, nb_epochs=1, verbose=False)
        assert all(torch.equal(one, other) for one, other in zip(seen[0], seen[1], strict=True))
        assert not all(torch.equal(one, other) for one, other in zip(seen[1], seen[3], strict=True))


def test_an_epoch_is_read_at_once():
    counts = []
    for rows in (20, 40):
        classifier = make("gpu")
        with transfers() as moved:
            classifier.fit(X[:rows], Y[:rows], validation_data=(X[:rows], Y[:rows]), config=config())
        counts.append(sum(waits(moved).values()))
    assert counts[1] - counts[0] == 4  # two steps more an epoch, and nothing else: not for a batch of validation data


def test_the_suite(tmp_path):
    words = ["--defences", "none,sr+jr", "--attacks", "fgm,pgd", "--train-size", "200", "--test-size", "20"]
    # One process: the CPU's would be forked from one in which the device has been in use.
    words += ["--epochs", "1", "--model", "mlp", "--quiet", "--jobs", "1", "--device"]
    runs = []
    for device in ("cuda", "cpu"):
        assert main([*words, device, "--out", str(tmp_path / device)]) == 0
        runs.append(json.loads((tmp_path / device / "results.json").read_text())["runs"])
    for ours, theirs in zip(*runs, strict=True):
        assert ours["clean_accuracy"] == theirs["clean_accuracy"]
        assert [case["robust_accuracy"] for case in ours["attacks"]] == [
            case["robust_accuracy"] for case in theirs["attacks"]
        ]
