"""Two processes train, and attack, as one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from art_sensreg import SensRegTrainer
from art_sensreg.training.batches import BatchSizes, LoaderBatches, TensorBatches
from art_sensreg.training.distributed import Processes, ProcessLostError, lost_processes_named
from tests.paths import ROOT

SCRIPT = Path(__file__).with_name("run.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(*arguments, processes=1, timeout=150, **environment):
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), *map(str, arguments)]
    return subprocess.run(
        command, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.parametrize(
    ("fraction", "adversary", "gamma"),
    [
        pytest.param("1", "", "0", marks=pytest.mark.slow),  # as of a part of the batch
        pytest.param("0.4", "adversarial", "0", marks=pytest.mark.slow),
        ("0.4", "carried", "0"),
        pytest.param("0.4", "free", "0", marks=pytest.mark.slow),
        pytest.param("0.4", "", "0", marks=pytest.mark.slow),
        pytest.param("0.4", "noisy", "0", marks=pytest.mark.slow),
        pytest.param("0.4", "", "0.05", marks=pytest.mark.slow),
        pytest.param("1", "replays", "0", marks=pytest.mark.slow),
        pytest.param("1", "trades", "0", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_as_one(tmp_path, fraction, adversary, gamma):
    results = []
    for processes in (1, 2):
        path = tmp_path / f"{processes}.pt"
        options = {"FRACTION": fraction, "ADVERSARY": adversary, "AWP": gamma}
        if gamma == "0" and adversary in ("carried", "free"):
            options["AUGMENT"] = "1"
        done = run(SCRIPT, path, processes=processes, **options)
        assert done.returncode == 0, done.stderr
        results.append(torch.load(path, weights_only=True))
    one, two = results
    assert len(one["losses"]) == (42 if adversary == "replays" else 21)
    # TRADES starts where its gradient is nearly zero: rounding decides some of the signs.
    loose = 200 if adversary == "trades" else 1
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5 * loose)
    for a, b in zip(one["weights"], two["weights"], strict=True):
        assert torch.allclose(a, b, atol=1e-5 * len(one["losses"]) * loose)  # 1e-5 a step
    for a, b in zip(one["history"], two["history"], strict=True):
        assert b == pytest.approx(a, abs=1e-4 * loose)


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_two_processes_accumulate_and_train_a_loss_as_one(tmp_path, reduction):
    results = []
    for processes, accumulate in ((1, "1"), (2, "2")):
        path = tmp_path / f"{processes}.pt"
        done = run(SCRIPT, path, processes=processes, ACCUMULATE=accumulate, REDUCTION=reduction, FRACTION="0.4")
        assert done.returncode == 0, done.stderr
        results.append(torch.load(path, weights_only=True))
    one, two = results
    assert one["weights"][-1].item() != 1  # the temperature
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4, abs=1e-5)
    for a, b in zip(one["weights"], two["weights"], strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    assert two["history"][-1]["val_loss"] == pytest.approx(one["history"][-1]["val_loss"], rel=1e-3)


@pytest.mark.slow
def test_when_one_process_dies_the_job_fails_and_can_be_resumed(tmp_path):
    whole = run(SCRIPT, tmp_path / "whole.pt", processes=2)
    assert whole.returncode == 0, whole.stderr
    # `run` gives up after minutes; a process left alone would wait for hours.
    killed = run(SCRIPT, tmp_path / "killed.pt", tmp_path / "checkpoints", processes=2, KILL="10")
    assert killed.returncode != 0
    assert "Another process of this job has gone" in killed.stderr, killed.stderr
    assert "resume=True" in killed.stderr
    assert not (tmp_path / "killed.pt").exists()
    resumed = run(SCRIPT, tmp_path / "resumed.pt", tmp_path / "checkpoints", processes=2)
    assert resumed.returncode == 0, resumed.stderr
    first, second = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "resumed"))
    assert second["losses"] == pytest.approx(first["losses"], abs=1e-6)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(first["weights"], second["weights"], strict=True))


@pytest.mark.slow
def test_all_processes_end_with_one_model_also_when_one_of_them_stops(tmp_path):
    done = run(SCRIPT, tmp_path / "stopped.pt", processes=2, NORM="batch", STOP="9")
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"stopped.pt.{rank}", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    result = torch.load(tmp_path / "stopped.pt", weights_only=True)
    assert len(result["losses"]) == 9
    assert 0 < result["history"][-1]["accuracy"] <= 1


@pytest.mark.slow
def test_the_suite_gives_the_same_masks_on_two_processes(tmp_path):
    arguments = ["benchmarks/run_art_suite.py", "--defences", "none,art-fbf", "--attacks", "fgm,pgd", "--epochs", "2"]
    arguments += ["--train-size", "600", "--test-size", "60"]
    for processes in (1, 2):
        done = run(ROOT / arguments[0], *arguments[1:], "--out", tmp_path / str(processes), processes=processes)
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("worst case") == 2  # one table, with two columns: only the first process prints
    runs = [json.loads((tmp_path / str(p) / "results.json").read_text())["runs"] for p in (1, 2)]
    assert [r["defence"] for r in runs[1]] == ["none", "art-fbf"]
    # ART's trainers run on one process alone: equal weights, so that the attacks must agree for each image.
    for attack in runs[0][1]["attacks"]:
        with np.load(tmp_path / "1" / attack["mask"]) as one, np.load(tmp_path / "2" / attack["mask"]) as two:
            assert np.array_equal(one["robust"], two["robust"])


@pytest.mark.parametrize(
    "text",
    [
        "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:25317",
        "[gloo/transport/tcp/pair.cc:534] Read error [127.0.0.1]:25317: Connection reset by peer",
        "[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete",
        "NCCL error in: ProcessGroupNCCL.cpp:2251, remote process exited or there was a network error",
    ],
)
def test_a_lost_process_is_named_at_once(text, caplog):
    with pytest.raises(ProcessLostError, match="resume=True"), lost_processes_named():
        raise RuntimeError(text)
    # Before any traceback, for which there may be no time.
    assert "Another process of this job has gone" in caplog.text


def test_an_error_in_this_process_is_not_a_lost_process(caplog):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as raised, lost_processes_named():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")
    assert raised.type is RuntimeError
    assert caplog.text == ""


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 50])
@pytest.mark.parametrize("noisy", [1, 3])
def test_shares_are_complete_and_their_weights_sum_to_one(rows, noisy):
    noisy = min(rows, noisy)
    parts = [Processes(rank, 3).share(rows, noisy) for rank in range(3)]
    assert sum(own for own, _ in parts) == rows
    assert sum(share.weight for _, share in parts) == pytest.approx(3)
    assert sum(share.noisy_weight for _, share in parts) == pytest.approx(3)
    for own, share in parts:
        assert share.weight == pytest.approx(own * 3 / rows)


def test_examples_are_divided_without_repetition_or_loss():
    data = torch.arange(11.0)[:, None]
    batches = TensorBatches(data, data, BatchSizes(4))
    seen = []
    for rank in range(3):
        processes = Processes(rank, 3)
        for x, _, total, _ in batches.epoch(0, 0, processes):
            own, _ = processes.share(total, total)
            seen += x[:own].flatten().tolist()
            assert len(x) == max(own, 1)
    assert sorted(seen) == list(range(11))


def test_a_loader_that_shards_its_examples_itself_is_refused(make_classifier, digits):
    data = TensorDataset(torch.from_numpy(digits.x_train[:40]), torch.from_numpy(digits.y_train[:40]))
    loader = DataLoader(data, batch_size=10, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    with pytest.raises(ValueError, match=r"`generator` has a DistributedSampler, which repeats images"):
        SensRegTrainer(make_classifier(), []).fit_generator(loader, nb_epochs=1, verbose=False)


def test_a_loader_that_ends_early_ends_the_epoch():
    batches = LoaderBatches(lambda: iter([(torch.zeros(2, 1), torch.zeros(2))]), length=5)
    assert len(list(batches.epoch(0, 0, Processes()))) == 1
