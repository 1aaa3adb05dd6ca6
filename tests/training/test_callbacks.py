"""When callbacks are called, how they end a run, and their state."""

import numpy as np
import pytest

from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of
from tests.training.helpers import Stop, fit_digits, fit_into


def test_callbacks_are_called_in_order(make_classifier, digits):
    calls = []

    class Log(Callback):
        def on_start(self, state):
            calls.append(("start", state.epoch, state.total_steps))

        def on_step(self, state):
            calls.append(("step", state.epoch, state.step))
            assert set(state.terms) == {"loss", "base", "sensitivity", "jacobian"}

        def on_epoch(self, state):
            calls.append(("epoch", state.history[-1]["epoch"], len(state.history)))

        def on_end(self, state):
            calls.append(("end", state.epoch, state.total_steps))
            assert not state.model.training

    class OnlyEnd:
        def on_end(self, state):
            calls.append("other")

    fit_digits(make_classifier(), digits, n=100, callbacks=[Log(), OnlyEnd()])
    assert calls == [
        ("start", 0, 0), ("step", 1, 1), ("step", 1, 2), ("epoch", 1, 1), ("step", 2, 1), ("step", 2, 2),
        ("epoch", 2, 2), ("end", 2, 4), "other",
    ]  # fmt: skip


def test_a_run_that_a_callback_ended_stays_ended(make_classifier, digits, tmp_path):
    class Enough(Callback):
        def on_epoch(self, state):
            state.stop = state.epoch == 2

    ended = fit_into(make_classifier(), digits, tmp_path, epochs=5, callbacks=[Enough()])
    again = fit_into(make_classifier(), digits, tmp_path, epochs=5, callbacks=[Enough()], resume=True)
    assert len(ended.history) == len(again.history) == 2
    assert same_weights(weights_of(ended.classifier), weights_of(again.classifier))
    assert len(fit_into(make_classifier(), digits, tmp_path, epochs=6, resume=True).history) == 6


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_run_that_is_stopped_after_any_step_goes_on(make_classifier, digits, tmp_path, after):
    class Stop(Callback):
        def on_step(self, state):
            state.stop = state.total_steps == after

    whole = fit_digits(make_classifier(), digits, n=100, epochs=2)
    stopped = fit_into(make_classifier(), digits, tmp_path, n=100, epochs=2, callbacks=[Stop()])
    resumed = fit_into(make_classifier(), digits, tmp_path, n=100, epochs=2, resume=True)
    assert len(stopped.history) == (after + 1) // 2
    assert len(resumed.history) == 2
    assert same_weights(weights_of(whole.classifier), weights_of(resumed.classifier))


def test_callbacks_get_their_state_back(make_classifier, digits, tmp_path):
    class Counter(Callback):
        def __init__(self):
            self.steps = 0

        def on_step(self, state):
            self.steps += 1

        def state_dict(self):
            return {"steps": self.steps}

        def load_state_dict(self, state):
            self.steps = state["steps"]

    with pytest.raises(InterruptedError):
        fit_into(make_classifier(), digits, tmp_path, callbacks=[Counter(), Stop(7)])
    counter = Counter()
    fit_into(make_classifier(), digits, tmp_path, callbacks=[counter], resume=True)
    assert counter.steps == 12
    assert np.isfinite(np.random.rand())
