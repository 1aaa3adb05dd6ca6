"""Runs that are stopped, by signals, errors or damaged files, and go on."""

import errno
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import list_checkpoints, read_checkpoint, write_checkpoint
from tests.conftest import same_weights, weights_of
from tests.paths import ROOT
from tests.training.checkpoint.helpers import Run
from tests.training.helpers import PENALTIES, Stop, fit_into

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


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_if_it_had_never_been_stopped(never_stopped, tmp_path, number):
    kill_and_resume(never_stopped, tmp_path, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 22))
def test_at_twenty_random_moments(never_stopped, tmp_path, number):
    kill_and_resume(never_stopped, tmp_path, number)


def test_a_run_stopped_by_a_callback_goes_on_where_it_stopped(make_classifier, digits, tmp_path):
    class Enough(Callback):
        def on_step(self, state):
            state.stop = state.total_steps == 6

    stopped = fit_into(make_classifier(), digits, tmp_path, callbacks=[Enough()])
    assert [record["epoch"] for record in stopped.history] == [1, 2]
    whole = fit_into(make_classifier(), digits)
    resumed = fit_into(make_classifier(), digits, tmp_path, resume=True)
    assert same_weights(weights_of(resumed.classifier), weights_of(whole.classifier))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    make_classifier, digits, tmp_path, damage, caplog
):
    whole = fit_into(make_classifier(), digits)
    with pytest.raises(InterruptedError):
        fit_into(make_classifier(), digits, tmp_path, callbacks=[Stop(10)], checkpoint_every=3)
    newest = list_checkpoints(tmp_path)[0]
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    newest.write_bytes({"truncate": content[:-100], "flip": content, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        resumed = fit_into(make_classifier(), digits, tmp_path, resume=True, checkpoint_every=3)
    assert newest.name in caplog.text
    assert same_weights(weights_of(resumed.classifier), weights_of(whole.classifier))


def test_an_old_run_is_not_overwritten(make_classifier, digits, tmp_path):
    fit_into(make_classifier(), digits, tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        ValueError, match=r"`checkpoint_dir` .* holds checkpoints of an earlier run; expected resume=True"
    ):
        fit_into(make_classifier(), digits, tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_full_disk_stops_with_a_clear_error_and_leaves_the_last_checkpoint(
    make_classifier, digits, tmp_path, monkeypatch
):
    whole = fit_into(make_classifier(), digits)
    written = []
    replace = os.replace

    def full(source, target):
        written.append(target)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"No space left on device.*checkpoint-000000004"):
        fit_into(make_classifier(), digits, tmp_path)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000004.safetensors"]
    resumed = fit_into(make_classifier(), digits, tmp_path, resume=True)
    assert same_weights(weights_of(resumed.classifier), weights_of(whole.classifier))


def test_an_unwritable_folder_is_refused_before_training(make_classifier, digits, tmp_path):
    (tmp_path / "file").write_text("")
    classifier = make_classifier()
    before = weights_of(classifier)
    with pytest.raises(OSError, match=r"`checkpoint_dir`"):
        fit_into(classifier, digits, tmp_path / "file" / "checkpoints")
    assert same_weights(before, weights_of(classifier))
    with pytest.raises(ValueError, match=r"`resume` is True and `checkpoint_dir` is None"):
        fit_into(classifier, digits, resume=True)
    with pytest.raises(TypeError, match=r"`checkpoint_dir` is 3; expected the path of a folder"):
        fit_into(classifier, digits, 3)


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
    fit_into(make_classifier(), digits, tmp_path, epochs=3, keep=3, checkpoint_every=1)
    assert [int(path.stem[-9:]) for path in list_checkpoints(tmp_path)] == [12, 11, 10]


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    Run().start(tmp_path)
    path = list_checkpoints(tmp_path)[0]
    step, tree = read_checkpoint(path)
    write_checkpoint(tmp_path, step, {**tree, "run": json.dumps(json.loads(tree["run"])["run"])}, keep=1)
    with pytest.raises(ValueError, match=r"is of another version of art_sensreg.* expected the version that wrote it"):
        Run().start(tmp_path, resume=True)


def test_the_folder_of_a_run_can_be_copied(tmp_path):
    Run().start(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    Run(epochs=2).start(tmp_path / "b", resume=True)
