"""Runs that are stopped, by signals, errors or damaged files, and go on."""

import errno
import logging
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import list_checkpoints
from tests.conftest import same_weights, weights_of
from tests.paths import ROOT

PENALTIES = [SensitivityPenalty(), JacobianPenalty()]
SCRIPT = Path(__file__).with_name("interrupted.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(folder, result, *options):
    command = [sys.executable, str(SCRIPT), str(folder), str(result), *options]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("never_stopped")
    process = start(folder / "checkpoints", folder / "weights.safetensors")
    process.stdout.readline()
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return folder / "weights.safetensors", time.monotonic() - began


def kill_and_resume(never_stopped, tmp_path, number):
    weights, seconds = never_stopped
    draw = random.Random(number)
    process = start(tmp_path / "checkpoints", tmp_path / "weights.safetensors")
    assert process.stdout.readline() == "step 1\n"
    time.sleep(draw.uniform(0, seconds))
    process.send_signal([signal.SIGKILL, signal.SIGTERM, signal.SIGINT][number % 3])
    process.communicate(timeout=60)
    process = start(tmp_path / "checkpoints", tmp_path / "weights.safetensors", "resume")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert (tmp_path / "weights.safetensors").read_bytes() == weights.read_bytes()
    assert (tmp_path / "weights.txt").read_text() == weights.with_suffix(".txt").read_text()


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_run_ends_as_if_it_had_never_been_stopped(never_stopped, tmp_path, number):
    kill_and_resume(never_stopped, tmp_path, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 22))
def test_at_twenty_random_moments(never_stopped, tmp_path, number):
    kill_and_resume(never_stopped, tmp_path, number)


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
            fit(make_classifier(), digits, tmp_path, callbacks=[Signal()], checkpoint_every=100)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-000000003.safetensors"]


def fit(classifier, digits, folder=None, penalties=PENALTIES, n=200, resume=False, epochs=3, **config):
    settings = TrainingConfig(**{"seed": 0, "batch_size": 50, **config})
    trainer = SensRegTrainer(classifier, list(penalties), settings)
    x, y = digits.x_train[:n], digits.y_train[:n]
    trainer.fit(x, y, nb_epochs=epochs, checkpoint_dir=folder, resume=resume, verbose=False)
    return trainer


class Stop(Callback):
    """Ends a run after some steps, as an error of the user's own would."""

    def __init__(self, after):
        self.after = after

    def on_step(self, state):
        if state.total_steps == self.after:
            raise InterruptedError


@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
@pytest.mark.parametrize("after", [1, 5, 7, 8])
def test_resumed_weights_are_bit_identical(make_classifier, digits, tmp_path, after, name):
    whole = fit(make_classifier(name), digits)
    with pytest.raises(InterruptedError):
        fit(make_classifier(name), digits, tmp_path, callbacks=[Stop(after)], checkpoint_every=3)
    classifier = make_classifier(name)
    torch.rand(5)
    resumed = fit(classifier, digits, tmp_path, resume=True, checkpoint_every=3)
    assert same_weights(weights_of(classifier), weights_of(whole.classifier))
    drop = [[{k: v for k, v in r.items() if k != "seconds"} for r in t.history] for t in (whole, resumed)]
    assert drop[0] == drop[1]


def test_a_finished_run_can_be_resumed_and_lengthened(make_classifier, digits, tmp_path):
    first = fit(make_classifier(), digits, tmp_path, epochs=2)
    again = fit(make_classifier(), digits, tmp_path, epochs=2, resume=True)
    assert same_weights(weights_of(first.classifier), weights_of(again.classifier))
    longer = fit(make_classifier(), digits, tmp_path, epochs=4, resume=True)
    whole = fit(make_classifier(), digits, epochs=4)
    assert same_weights(weights_of(longer.classifier), weights_of(whole.classifier))
    with pytest.raises(ValueError, match=r"`nb_epochs` is 3; the checkpoint has done 4 epochs"):
        fit(make_classifier(), digits, tmp_path, epochs=3, resume=True)


def test_without_a_seed_a_resumed_run_takes_that_of_the_first(make_classifier, digits, tmp_path):
    whole = fit(make_classifier(), digits, seed=None)
    with pytest.raises(InterruptedError):
        fit(make_classifier(), digits, tmp_path, seed=None, callbacks=[Stop(6)])
    torch.manual_seed(5)
    classifier = make_classifier()
    torch.manual_seed(6)
    fit(classifier, digits, tmp_path, seed=None, resume=True)
    assert same_weights(weights_of(classifier), weights_of(whole.classifier))


def test_a_run_stopped_by_a_callback_goes_on_where_it_stopped(make_classifier, digits, tmp_path):
    class Enough(Callback):
        def on_step(self, state):
            state.stop = state.total_steps == 6

    stopped = fit(make_classifier(), digits, tmp_path, callbacks=[Enough()])
    assert [record["epoch"] for record in stopped.history] == [1, 2]
    whole = fit(make_classifier(), digits)
    resumed = fit(make_classifier(), digits, tmp_path, resume=True)
    assert same_weights(weights_of(resumed.classifier), weights_of(whole.classifier))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    make_classifier, digits, tmp_path, damage, caplog
):
    whole = fit(make_classifier(), digits)
    with pytest.raises(InterruptedError):
        fit(make_classifier(), digits, tmp_path, callbacks=[Stop(10)], checkpoint_every=3)
    newest = list_checkpoints(tmp_path)[0]
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncate": content[:-100], "flip": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        resumed = fit(make_classifier(), digits, tmp_path, resume=True, checkpoint_every=3)
    assert newest.name in caplog.text
    assert same_weights(weights_of(resumed.classifier), weights_of(whole.classifier))


def test_a_checkpoint_of_another_run_is_refused_naming_the_first_difference(make_classifier, digits, tmp_path):
    fit(make_classifier(), digits, tmp_path, epochs=1)

    def again(name="mlp", penalties=PENALTIES, n=200, lr=3e-3, activation="relu", **config):
        classifier = make_classifier(name, lr=lr, activation=activation)
        fit(classifier, digits, tmp_path, penalties, n, resume=True, **config)

    cases = [
        ({"name": "cnn-small"}, r"the module `features.0` is Flatten"),
        ({"activation": "gelu"}, r"ReLU\(\) .* expected GELU"),
        ({"batch_size": 10}, r"the setting `batch_size` is 50 in the checkpoint; expected 10"),
        ({"seed": 1}, r"the setting `seed` is 0"),
        ({"n": 150}, r"the training data's `content` is 200 images"),
        ({"penalties": []}, r"the term of the objective `sensitivity` is Sensitivity.* expected none"),
        ({"penalties": [SensitivityPenalty(sigma=0.2)]}, r"is Sensitivity.*sigma=0.3.*expected Sensitivity.*sigma=0.2"),
        ({"lr": 1e-2}, r"the optimizer's `lr` is 0.003"),
    ]
    for changed, message in cases:
        with pytest.raises(
            ValueError, match=r"`resume`: checkpoint-000000004.safetensors is of another run: .*" + message
        ):
            again(**changed)


def test_an_old_run_is_not_overwritten(make_classifier, digits, tmp_path):
    fit(make_classifier(), digits, tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=r"`checkpoint_dir` .* holds checkpoints of an earlier run; expected resume=True"
    ):
        fit(make_classifier(), digits, tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_full_disk_stops_with_a_clear_error_and_leaves_the_last_checkpoint(
    make_classifier, digits, tmp_path, monkeypatch
):
    whole = fit(make_classifier(), digits)
    written = []
    replace = os.replace

    def full(source, target):
        written.append(target)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"No space left on device.*checkpoint-000000004"):
        fit(make_classifier(), digits, tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000004.safetensors"]
    resumed = fit(make_classifier(), digits, tmp_path, resume=True)
    assert same_weights(weights_of(resumed.classifier), weights_of(whole.classifier))


def test_an_unwritable_folder_is_refused_before_training(make_classifier, digits, tmp_path):
    (tmp_path / "file").write_text("")
    classifier = make_classifier()
    before = weights_of(classifier)
    with pytest.raises(OSError, match=r"`checkpoint_dir`"):
        fit(classifier, digits, tmp_path / "file" / "checkpoints")
    assert same_weights(before, weights_of(classifier))
    with pytest.raises(ValueError, match=r"`resume` is True and `checkpoint_dir` is None"):
        fit(classifier, digits, resume=True)
    with pytest.raises(TypeError, match=r"`checkpoint_dir` is 3; expected the path of a folder"):
        fit(classifier, digits, 3)


def test_a_nonfinite_loss_names_the_last_good_checkpoint(make_classifier, digits, tmp_path):
    class Exploding:
        weight, name, calls = 1.0, "exploding", 0

        def __call__(self, model, x, y):
            self.calls += 1
            return model(x).sum() * (float("inf") if self.calls == 6 else 0.0)

    with pytest.raises(FloatingPointError, match=r"'exploding' is .* epoch 2, step 2; .*checkpoint-000000004"):
        fit(make_classifier(), digits, tmp_path, [Exploding()])


def test_weights_that_are_not_finite_are_never_stored(make_classifier, digits, tmp_path):
    class Poison(Callback):
        def on_step(self, state):
            if state.total_steps == 6:
                with torch.no_grad():
                    next(state.model.parameters()).view(-1)[0] = float("nan")

    with pytest.raises(FloatingPointError, match=r"checkpoint-000000004"):
        fit(make_classifier(), digits, tmp_path, callbacks=[Poison()], checkpoint_every=6)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-000000004.safetensors"]


def test_a_loader_resumes_at_the_start_of_an_epoch_and_says_so(make_classifier, digits, tmp_path, caplog):
    data = TensorDataset(torch.from_numpy(digits.x_train[:200]), torch.from_numpy(digits.y_train[:200]))
    loader = DataLoader(data, batch_size=50)  # in order, so that the end can be compared

    def trained(folder=None, resume=False, **config):
        classifier = make_classifier()
        trainer = SensRegTrainer(classifier, PENALTIES, TrainingConfig(seed=0, checkpoint_every=3, **config))
        trainer.fit_generator(loader, nb_epochs=3, checkpoint_dir=folder, resume=resume, verbose=False)
        return weights_of(classifier)

    with pytest.raises(InterruptedError):
        trained(tmp_path, callbacks=[Stop(7)])
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-000000004.safetensors"]
    with caplog.at_level(logging.WARNING):
        resumed = trained(tmp_path, resume=True)
    assert "training resumes at the start of epoch 2" in caplog.text
    assert same_weights(resumed, trained())


def test_the_newest_checkpoints_are_kept(make_classifier, digits, tmp_path):
    fit(make_classifier(), digits, tmp_path, epochs=3, keep=3, checkpoint_every=1)
    assert [int(path.stem[-9:]) for path in list_checkpoints(tmp_path)] == [12, 11, 10]


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
        fit(make_classifier(), digits, tmp_path, callbacks=[Counter(), Stop(7)])
    counter = Counter()
    fit(make_classifier(), digits, tmp_path, callbacks=[counter], resume=True)
    assert counter.steps == 12
    assert np.isfinite(np.random.rand())
