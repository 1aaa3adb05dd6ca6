"""Weights and images laid out channels last: the same training, and each comes back as it was."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of

SHAPES = {1: (3, 6), 2: (3, 5, 5), 3: (3, 4, 4, 4)}
CONV, NORM = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}, {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
Y = np.arange(40) % 3


def images(dims):
    return np.random.default_rng(0).random((40, *SHAPES[dims]), dtype=np.float32)


def make(dims, own_layout=False, norm=True):
    torch.manual_seed(0)
    # A bias before a normalisation has no gradient but for rounding.
    layers = [
        CONV[dims](3, 8, 2, bias=not norm),
        *([NORM[dims](8)] if norm else []),
        nn.ReLU(),
        CONV[dims](8, 4, 2),
        nn.ReLU(),
    ]
    with torch.no_grad():
        width = nn.Sequential(*layers, nn.Flatten()).eval()(torch.zeros(2, *SHAPES[dims])).shape[1]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 3))
    if own_layout:
        net.to(memory_format=LAYOUT[dims])
    return SensRegClassifier(
        net, nn.CrossEntropyLoss(), SHAPES[dims], 3, optimizer=torch.optim.Adam(net.parameters(), 1e-2, eps=1e-3),
        clip_values=(0, 1), device_type="cpu",
    )  # fmt: skip


def train(classifier, x, epochs=2, folder=None, resume=False, loader=False, **config):
    config = TrainingConfig(**{"seed": 0, "batch_size": 16, **config})
    trainer = SensRegTrainer(classifier, [SensitivityPenalty(), JacobianPenalty()], config)
    options = {"nb_epochs": epochs, "checkpoint_dir": folder, "resume": resume, "verbose": False}
    if loader:
        x = torch.as_tensor(x)
        trainer.fit_generator(DataLoader(TensorDataset(x, torch.from_numpy(Y)), 16), validation_data=(x, Y), **options)
    else:
        trainer.fit(x, Y, validation_data=(x, Y), **options)
    return weights_of(classifier), trainer.history[-1]["val_loss"]


def strides(classifier):
    return [tensor.stride() for tensor in classifier.model.state_dict().values()]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("config", [{}, {"ema": 0.5}, {"restore_best": True}], ids=["plain", "ema", "best"])
def test_it_trains_the_same_and_comes_back_as_it_was(dims, config):
    x = images(dims)
    plain, laid_out = make(dims), make(dims)
    before = strides(plain)
    expected, loss = train(plain, x, **config)
    result, other = train(laid_out, x, channels_last=True, **config)
    for weight, right in zip(result, expected, strict=True):
        torch.testing.assert_close(weight, right, rtol=1e-3, atol=1e-4)
    assert other == pytest.approx(loss, rel=1e-3)
    assert strides(laid_out) == before
    # The optimizer's averages lie as the weights do: fused kernels go through both as they lie.
    optimizer = laid_out.optimizer
    assert all(optimizer.state[p]["exp_avg"].stride() == p.stride() for p in laid_out.model.parameters())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("loader", [False, True])
def test_the_users_own_layout_is_kept(dims, channels_last, loader):
    x = torch.from_numpy(images(dims))
    expected, loss = train(make(dims), x, loader=loader)
    classifier = make(dims, own_layout=True)
    before = strides(classifier)
    assert before != strides(make(dims))
    mine = x.contiguous(memory_format=LAYOUT[dims])
    result, other = train(classifier, mine, channels_last=channels_last, loader=loader)
    for weight, right in zip(result, expected, strict=True):
        torch.testing.assert_close(weight, right, rtol=1e-3, atol=1e-4)
    assert other == pytest.approx(loss, rel=1e-3)
    assert strides(classifier) == before
    assert mine.is_contiguous(memory_format=LAYOUT[dims])


def test_after_an_error_weights_lie_as_before():
    class Broken(Callback):
        def on_step(self, state):
            raise InterruptedError

    for own_layout in (False, True):
        classifier = make(2, own_layout)
        before = strides(classifier)
        with pytest.raises(InterruptedError):
            train(classifier, images(2), channels_last=True, callbacks=[Broken()])
        assert strides(classifier) == before


@pytest.mark.parametrize("dims", [2, 3])
def test_it_resumes_bit_for_bit(dims, tmp_path):
    x = images(dims)
    whole = train(make(dims), x, epochs=3, channels_last=True, ema=0.5)
    train(make(dims), x, epochs=1, channels_last=True, ema=0.5, folder=tmp_path)
    resumed = train(make(dims), x, epochs=3, channels_last=True, ema=0.5, folder=tmp_path, resume=True)
    assert same_weights(whole[0], resumed[0])
    assert whole[1] == resumed[1]


@pytest.mark.parametrize("dims", [2, 3])
def test_batches_in_parts(dims, monkeypatch):
    """On the CPU a batch is computed in parts that fit the cache: each is laid out too."""
    x = images(dims)
    expected, _ = train(make(dims, norm=False), x)
    monkeypatch.setattr("art_sensreg.training.steps._CACHED_NUMBERS", 4000)
    result, _ = train(make(dims, norm=False), x, channels_last=True)
    for weight, right in zip(result, expected, strict=True):
        torch.testing.assert_close(weight, right, rtol=1e-3, atol=1e-4)
