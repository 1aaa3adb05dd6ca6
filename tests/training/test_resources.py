"""One run at a time in a process, and layouts of weights that come back as they were."""

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from art_sensreg.training.resources import TURN
from tests.conftest import same_weights, weights_of
from tests.training.helpers import Stop, X, Y, classifier_of, fit_digits, fit_into, small_model


def made(seed, callbacks=()):
    """A run yet to start. (Weights are drawn from torch's global generator, so not while another thread trains.)"""
    config = TrainingConfig(seed=seed, batch_size=4, callbacks=callbacks)
    model = small_model(nn.Dropout(), nn.BatchNorm1d(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    trainer = SensRegTrainer(classifier_of(model, optimizer), [SensitivityPenalty(), JacobianPenalty()], config)

    def run():
        trainer.fit(X, Y, nb_epochs=3, verbose=False)
        return weights_of(trainer.classifier)

    return run


def run(seed, callbacks=()):
    return made(seed, callbacks)()


def in_threads(*functions):
    results = {}
    threads = [
        threading.Thread(target=lambda n=n, f=f: results.update({n: f()}), name=f"run {n}")
        for n, f in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_runs_at_once_have_the_numbers_of_each_alone():
    class Meet(Callback):
        """Lets the other thread go on in the middle of every step."""

        def on_step(self, state):
            threading.Event().wait(0.001)

    alone = [run(1), run(2)]
    for _ in range(2):
        together = in_threads(made(1, [Meet()]), made(2, [Meet()]))
        assert same_weights(alone[0], together[0])
        assert same_weights(alone[1], together[1])


def test_a_run_in_a_callback_of_another_goes_ahead():
    inner = []

    class Inside(Callback):
        def on_epoch(self, state):
            inner.append(run(2))

    alone = run(1), run(2)
    assert same_weights(run(1, [Inside()]), alone[0])
    assert all(same_weights(weights, alone[1]) for weights in inner)


def test_a_callback_that_waits_for_a_run_in_another_thread_does_not_hang(monkeypatch):
    monkeypatch.setattr(TURN, "patience", 0.05)
    errors, second = [], made(2)

    def inner():
        with pytest.raises(RuntimeError, match=r"in thread '.*' is in a callback that has not ended") as error:
            second()
        errors.append(error)

    class Wait(Callback):
        def on_epoch(self, state):
            if state.epoch == 1:
                in_threads(inner)

    assert same_weights(run(1, [Wait()]), run(1))
    assert len(errors) == 1


def test_a_run_that_fails_lets_the_next_one_go():
    class Fail(Callback):
        def on_step(self, state):
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        run(1, [Fail()])
    assert same_weights(in_threads(lambda: run(1))[0], run(1))


def test_channels_last_trains_the_same(make_classifier, digits):
    plain = fit_digits(make_classifier("cnn-small"), digits, epochs=1)
    laid_out = fit_digits(make_classifier("cnn-small"), digits, epochs=1, channels_last=True)
    assert laid_out.history[0]["loss"] == pytest.approx(plain.history[0]["loss"], rel=1e-4)
    assert all(p.is_contiguous() for p in laid_out.classifier.model.parameters())


@pytest.mark.parametrize("own_layout", [False, True])
def test_channels_last_weights_resume_bit_for_bit(make_classifier, digits, tmp_path, own_layout):
    def classifier():
        made = make_classifier("cnn-small")
        if own_layout:
            made.model.to(memory_format=torch.channels_last)
        return made

    config = {"channels_last": not own_layout, "checkpoint_every": 3}
    whole = fit_into(classifier(), digits, **config)
    with pytest.raises(InterruptedError):
        fit_into(classifier(), digits, tmp_path, callbacks=[Stop(7)], **config)
    resumed = fit_into(classifier(), digits, tmp_path, resume=True, **config)
    assert same_weights(weights_of(resumed.classifier), weights_of(whole.classifier))
    assert resumed.classifier.optimizer.param_groups[0]["fused"] is None


SHAPES = {1: (3, 6), 2: (3, 5, 5), 3: (3, 4, 4, 4)}


CONV, NORM = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}, {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}


LABELS = np.arange(40) % 3


def images(dims):
    return np.random.default_rng(0).random((40, *SHAPES[dims]), dtype=np.float32)


def convolutional(dims, own_layout=False, norm=True):
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


def train_images(classifier, x, epochs=2, folder=None, resume=False, loader=False, **config):
    config = TrainingConfig(**{"seed": 0, "batch_size": 16, **config})
    trainer = SensRegTrainer(classifier, [SensitivityPenalty(), JacobianPenalty()], config)
    options = {"nb_epochs": epochs, "checkpoint_dir": folder, "resume": resume, "verbose": False}
    if loader:
        x = torch.as_tensor(x)
        trainer.fit_generator(
            DataLoader(TensorDataset(x, torch.from_numpy(LABELS)), 16), validation_data=(x, LABELS), **options
        )
    else:
        trainer.fit(x, LABELS, validation_data=(x, LABELS), **options)
    return weights_of(classifier), trainer.history[-1]["val_loss"]


def strides(classifier):
    return [tensor.stride() for tensor in classifier.model.state_dict().values()]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("config", [{}, {"ema": 0.5}, {"restore_best": True}], ids=["plain", "ema", "best"])
def test_it_trains_the_same_and_comes_back_as_it_was(dims, config):
    x = images(dims)
    plain, laid_out = convolutional(dims), convolutional(dims)
    before = strides(plain)
    expected, loss = train_images(plain, x, **config)
    result, other = train_images(laid_out, x, channels_last=True, **config)
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
    expected, loss = train_images(convolutional(dims), x, loader=loader)
    classifier = convolutional(dims, own_layout=True)
    before = strides(classifier)
    assert before != strides(convolutional(dims))
    mine = x.contiguous(memory_format=LAYOUT[dims])
    result, other = train_images(classifier, mine, channels_last=channels_last, loader=loader)
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
        classifier = convolutional(2, own_layout)
        before = strides(classifier)
        with pytest.raises(InterruptedError):
            train_images(classifier, images(2), channels_last=True, callbacks=[Broken()])
        assert strides(classifier) == before


@pytest.mark.parametrize("dims", [2, 3])
def test_it_resumes_bit_for_bit(dims, tmp_path):
    x = images(dims)
    whole = train_images(convolutional(dims), x, epochs=3, channels_last=True, ema=0.5)
    train_images(convolutional(dims), x, epochs=1, channels_last=True, ema=0.5, folder=tmp_path)
    resumed = train_images(convolutional(dims), x, epochs=3, channels_last=True, ema=0.5, folder=tmp_path, resume=True)
    assert same_weights(whole[0], resumed[0])
    assert whole[1] == resumed[1]


@pytest.mark.parametrize("dims", [2, 3])
def test_batches_in_parts(dims, monkeypatch):
    """On the CPU a batch is computed in parts that fit the cache: each is laid out too."""
    x = images(dims)
    expected, _ = train_images(convolutional(dims, norm=False), x)
    monkeypatch.setattr("art_sensreg.training.steps._CACHED_NUMBERS", 4000)
    result, _ = train_images(convolutional(dims, norm=False), x, channels_last=True)
    for weight, right in zip(result, expected, strict=True):
        torch.testing.assert_close(weight, right, rtol=1e-3, atol=1e-4)
