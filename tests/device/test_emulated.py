"""The emulated device refuses what CUDA refuses, and computes what the CPU computes."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from tests.device.counting import kernels, transfers, waits

DEVICE = torch.device("cuda", 0)


def test_devices_do_not_mix():
    x = torch.ones(3, device=DEVICE)
    for refused in (
        lambda: x + torch.ones(3),
        lambda: x.index_select(0, torch.tensor([0])),
        lambda: torch.cat([x, torch.ones(1)]),
        lambda: nn.functional.linear(x, torch.ones(2, 3)),
        lambda: torch.randn(3, device=DEVICE, generator=torch.Generator()),
        lambda: x.pin_memory(),
    ):
        with pytest.raises(RuntimeError):
            refused()
    with pytest.raises(TypeError):
        x.numpy()


def test_what_cuda_takes():
    x = torch.arange(3.0, device=DEVICE)
    assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3]
    assert x[torch.tensor([2, 0])].tolist() == [2, 0]
    assert torch.where(x > 1, x, torch.tensor(0.0)).tolist() == [0, 0, 2]


def test_the_same_numbers_as_on_the_cpu():
    def trained(device):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).to(
            device
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        generator = torch.Generator(device=device).manual_seed(1)
        for _ in range(3):
            x = torch.randn(4, 1, 4, 4, device=device, generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.zeros(4, dtype=torch.long, device=device)).backward()
            optimizer.step()
        return [value.cpu() for value in model.state_dict().values()]

    for ours, theirs in zip(trained("cpu"), trained(DEVICE), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_copies_and_files():
    model = nn.Linear(2, 2).to(DEVICE)
    twin = copy.deepcopy(model)
    assert twin.weight.device == DEVICE
    assert twin.weight.data_ptr() != model.weight.data_ptr()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["weight"].device == DEVICE


def test_what_is_counted():
    x = torch.ones(4, device=DEVICE)
    host = torch.ones(4)
    with transfers() as moved:
        x.sum().item()
        x[x > 0]
        x.copy_(host)
        x.copy_(host.pin_memory(), non_blocking=True)
        torch.where(x > 0, x, 0.0)
    assert sorted(kind for kind, _, _ in moved.elements()) == ["H2D", "H2D async", "item", "nonzero"]
    assert sum(waits(moved).values()) == 3
    with kernels() as launched:
        x.view(2, 2).add(1).relu_()
    assert sum(launched.values()) == 2


def test_autocast_and_its_scaler():
    model = nn.Linear(3, 2).to(DEVICE)
    scaler = torch.amp.GradScaler("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.autocast("cuda", dtype=torch.float16):
        logits = model(torch.ones(2, 3, device=DEVICE))
        loss = logits.pow(2).mean()
    assert (logits.dtype, loss.dtype) == (torch.float16, torch.float32)
    before = model.weight.detach().clone()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert not torch.equal(before, model.weight)


def test_numbers_stand_for_tensors():
    x = torch.arange(5, device=DEVICE)
    assert (x % 3).tolist() == [0, 1, 2, 0, 1]
    assert (x / 2).tolist() == [0, 0.5, 1, 1.5, 2]
