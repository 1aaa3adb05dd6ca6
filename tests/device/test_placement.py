"""What a run computes with is on the device of the run, wherever it was before."""

from __future__ import annotations

import functools
import logging
from typing import Any

import numpy as np
import pytest
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import PGD
from art_sensreg.art_bridge.preprocessing import StandardisedModel
from art_sensreg.training import ValidationAttack
from art_sensreg.training.batches import BatchForm, BatchSizes, LoaderBatches, TensorBatches
from art_sensreg.training.distributed import Processes
from tests.device.counting import transfers, waits

DEVICE = torch.device("cuda", 0)
PENALTIES = (SensitivityPenalty(sigma=0.3), JacobianPenalty())
GENERATOR = torch.Generator().manual_seed(3)
X = torch.rand(40, 1, 6, 6, generator=GENERATOR).numpy()
Y = torch.randint(3, (40,), generator=GENERATOR).numpy()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def make(device: str, loss: Any = None, penalties: Any = PENALTIES, optimizer: Any = None, **kwargs: Any) -> Any:
    model = kwargs.pop("model", None) or network()
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=0.01)
    loss = loss or nn.CrossEntropyLoss()
    kwargs = {"clip_values": (0, 1), "device_type": device, "penalties": penalties, **kwargs}
    return SensRegClassifier(model, loss, (1, 6, 6), 3, optimizer, **kwargs)


def fit(classifier: Any, **config: Any) -> Any:
    settings = TrainingConfig(batch_size=10, nb_epochs=2, seed=0, on_catastrophic_overfitting="ignore", **config)
    classifier.fit(X, Y, config=settings, batch_size=10, nb_epochs=2)
    return classifier


def same(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours.model.state_dict().values(), theirs.model.state_dict().values(), strict=True):
        assert one.device == DEVICE
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-5)


WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


class PlainWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = WEIGHTS.clone()

    def forward(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, y, weight=self.weight)


LOSSES = {
    "class weights": lambda: nn.CrossEntropyLoss(weight=WEIGHTS.clone()),
    "tensor attribute": PlainWeights,
    "partial": lambda: functools.partial(nn.functional.cross_entropy, weight=WEIGHTS.clone()),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("how", ["config", "set_params", "constructor", "set_params loss"])
def test_a_weighted_loss(loss, how):
    expected = fit(make("cpu", loss()))
    if how == "config":
        ours = fit(make("cpu", loss()), device="cuda")
    elif how == "set_params":
        ours = make("cpu", loss())
        ours.set_params(device_type="gpu")
        fit(ours)
    elif how == "constructor":
        ours = fit(make("gpu", loss()))
    else:
        ours = make("gpu")
        ours.set_params(loss=loss())
        fit(ours)
    same(ours, expected)
    y = np.eye(3, dtype=np.float32)[Y]
    np.testing.assert_allclose(ours.loss_gradient(X, y), expected.loss_gradient(X, y), rtol=1e-3, atol=1e-6)


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("how", ["config", "set_params", "constructor"])
def test_an_optimizer_that_began_on_the_cpu(kind, how):
    def warm(device: str) -> Any:
        model = network()
        optimizer = kind(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.from_numpy(X[:5])).pow(2).sum().backward()
            optimizer.step()
        return make(device, model=model, optimizer=optimizer)

    expected = fit(warm("cpu"))
    ours = warm("gpu" if how == "constructor" else "cpu")
    if how == "set_params":
        ours.set_params(device_type="gpu")
    same(fit(ours, **({"device": "cuda"} if how == "config" else {})), expected)
    # And back again.
    fit(ours, device="cpu")
    fit(expected)
    for one, other in zip(ours.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Scaling(PreprocessorPyTorch):
    """A preprocessor that keeps a tensor."""

    def __init__(self, device_type: str) -> None:
        super().__init__(device_type=device_type, apply_fit=True, apply_predict=True)
        self.factor = torch.tensor(1.0).reshape(1, 1, 1, 1).to(self.device)

    def forward(self, x: Any, y: Any = None) -> Any:
        return x * self.factor, y


def test_preprocessors_with_tensors():
    ours, expected = (make("cpu", preprocessing_defences=[Scaling("cpu")], preprocessing=(0.3, 0.5)) for _ in range(2))
    ours.set_params(device_type="gpu")
    assert ours.preprocessing_operations[0].factor.device == DEVICE
    same(fit(ours), fit(expected))
    np.testing.assert_allclose(ours.predict(X), expected.predict(X), rtol=1e-4, atol=1e-5)


class Pull(nn.Module):
    """A penalty with a buffer, a plain tensor and a network of its own."""

    name, weight = "pull", 0.1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("target", torch.full((3,), 0.5))
        self.scale = [torch.tensor([1.0, 2.0, 3.0])]
        self.teacher = network().eval()

    def forward(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return ((model(x) - self.teacher(x).detach() - self.target) * self.scale[0]).pow(2).mean()


def test_penalties_with_tensors():
    for penalty in (Pull, lambda: functools.partial(lambda model, x, y, target: (model(x) - target).pow(2).mean(),
                                                    target=torch.ones(3))):  # fmt: skip
        expected = fit(make("cpu", penalties=[penalty()]))
        same(fit(make("cpu", penalties=[penalty()]), device="cuda"), expected)


@pytest.mark.parametrize("free", [2**34, 1000])
@pytest.mark.parametrize("soft", [False, True])
def test_data_that_do_not_fit_the_device(free, soft, monkeypatch):
    monkeypatch.setattr(torch.emu, "mem_get_info", lambda device=None: (free, 2**35))
    y = np.eye(3, dtype=np.float32)[Y] * 0.9 + 0.1 / 3 if soft else Y
    config = TrainingConfig(
        batch_size=10, nb_epochs=2, seed=0, validation_attack=ValidationAttack(eps=0.1), restore_best=True
    )
    results = []
    for device in ("gpu", "cpu"):
        trainer = SensRegTrainer(make(device), PENALTIES, config, PGD(eps=0.1, max_iter=2))
        trainer.fit(X, y, validation_data=(X[:20], y[:20]), batch_size=10, nb_epochs=2)
        results.append((trainer.get_classifier(), trainer.history))
    same(results[0][0], results[1][0])
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"seconds"}:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4), name


def test_batches_from_the_host_are_copied_without_waiting(monkeypatch):
    batches = TensorBatches(
        torch.from_numpy(X), torch.from_numpy(Y).to(DEVICE), BatchSizes(10), BatchForm(device=DEVICE)
    )
    with transfers() as moved:
        for x, y, *_ in batches.epoch(0, 0, Processes()):
            assert (x.device, y.device) == (DEVICE, DEVICE)
    assert not waits(moved)
    assert sum(moved.values()) == 8


@pytest.mark.parametrize("several", [False, True])
def test_batches_of_a_loader(several):
    class Exchange(Processes):
        def agree(self, value: Any) -> Any:
            assert all(part.device.type == "cpu" for part in value or ())  # another process has another GPU
            return value

    processes = Exchange(rank=0, count=2) if several else Processes()
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=10)
    batches = LoaderBatches(lambda: iter(loader), len(loader), True, DEVICE)
    assert batches.look(2).device == DEVICE
    with transfers() as moved:
        dealt = list(batches.epoch(0, 0, processes))
    assert [len(x) for x, *_ in dealt] == [5 if several else 10] * 4
    assert all(x.device == y.device == DEVICE for x, y, *_ in dealt)
    assert not waits(moved)


def test_a_loader_trains_as_on_the_cpu():
    def trained(device: str) -> Any:
        classifier = make(device)
        loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), batch_size=10, shuffle=True)
        classifier.fit_generator(loader, nb_epochs=2, config=TrainingConfig(seed=0), validation_data=(X, Y))
        return classifier

    same(trained("gpu"), trained("cpu"))


def test_the_standardisation_follows_its_model():
    inner = nn.Linear(2, 2)
    model = StandardisedModel(inner, torch.tensor([0.5, 0.1]), torch.tensor([2.0, 3.0]))
    assert sorted(model.state_dict()) == ["model.bias", "model.weight"]
    expected = model(torch.ones(1, 2)).detach()
    moved = model.to(DEVICE)
    torch.testing.assert_close(moved(torch.ones(1, 2, device=DEVICE)).cpu(), expected)
    assert model.double().mean.dtype == torch.float64


def test_the_gpu_of_the_local_rank(monkeypatch, caplog):
    from art_sensreg.art_bridge import placement

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.emu, "device_count", lambda: 4)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    classifier = make("gpu")
    assert placement.run_device(classifier, TrainingConfig()).index == 3
    assert placement.run_device(classifier, TrainingConfig(device="cuda")).index == 3
