"""Signals while training."""

import signal

import pytest

from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import list_checkpoints
from tests.training.helpers import fit_into


@pytest.mark.usefixtures("interruptible")
def test_a_signal_after_the_last_step_is_obeyed(make_classifier, digits, tmp_path):
    class Late(Callback):
        def on_epoch(self, state):
            if state.epoch == 3:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit_into(make_classifier(), digits, tmp_path, callbacks=[Late()])
    assert list_checkpoints(tmp_path)[0].name == "checkpoint-000000012.safetensors"


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_obeyed_after_a_checkpoint(make_classifier, digits, tmp_path, number):
    class Signal(Callback):
        def on_step(self, state):
            if state.total_steps == 3:
                signal.raise_signal(number)

    former = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(1)))
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fit_into(make_classifier(), digits, tmp_path, callbacks=[Signal()], checkpoint_every=100)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-000000003.safetensors"]
