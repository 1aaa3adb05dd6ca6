"""Runs in several threads of one process."""

import threading

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from art_sensreg.training.resources import TURN
from tests.conftest import same_weights, weights_of
from tests.training.helpers import X, Y, classifier_of, small_model


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
