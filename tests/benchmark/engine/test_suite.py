"""A run of the suite: the files that it leaves, resuming, and one run at a time in a folder."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from art_sensreg.benchmark import SuiteRequest, run_suite
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.engine import suite
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.training.checkpoint.lock import FolderLock
from art_sensreg.utils.stats import wilson_interval
from tests.benchmark.runs import SCRIPT, SMALL, results, run

ARGUMENTS = [*SMALL, "--defences", "none", "--attacks", "fgm"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "run"
    code = run(out, "--defences", "none,sr+jr", "--attacks", "fgm,pgd,deepfool,hopskipjump", "--seeds", "2")
    assert code == 0
    return out


def test_files_of_the_contract(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        "results.json",
        "results.csv",
        "report.html",
        "report.md",
        "robustness.png",
        "masks",
        "checkpoints",
    } <= names
    data = results(finished)
    assert data["schema"] == 1
    assert {"python", "torch", "numpy", "art", "device"} <= set(data["environment"])
    assert [(entry["defence"], entry["seed"]) for entry in data["runs"]] == [
        ("none", 0), ("sr+jr", 0), ("none", 1), ("sr+jr", 1)
    ]  # fmt: skip
    for entry in data["runs"]:
        assert entry["status"] == "ok"
        assert entry["dataset"] == "digits"
        assert 0.1 < entry["clean_accuracy"] <= 1
        assert entry["train_seconds"] > 0
        assert entry["step_cost"] > 0
        assert len(entry["attacks"]) == 4 * 2
        for attack in entry["attacks"]:
            assert {"attack", "norm", "eps", "robust_accuracy", "n", "seconds", "mask", "seen"} <= set(attack)
            assert (attack["view"], attack["status"]) == ("default", "ok")
    with (finished / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4 * (4 + 1) * 2  # with the worst case
    page = (finished / "report.html").read_text()
    assert "sr+jr" in page
    assert len(list((finished / "examples").iterdir())) == 2


def test_worst_case_comes_from_the_masks(finished):
    for entry in results(finished)["runs"]:
        for case in entry["worst_case"]:
            masks = []
            for attack in entry["attacks"]:
                with np.load(finished / attack["mask"]) as file:
                    robust, attacked = file["robust"], file["attacked"]
                assert len(robust) == 30
                assert attacked.sum() == attack["n"]
                assert attack["robust_accuracy"] == pytest.approx(robust[attacked].mean())
                if attack["eps"] == case["eps"]:
                    masks.append(robust)
            worst = np.minimum.reduce(masks)
            assert case["robust_accuracy"] == pytest.approx(worst.mean())
            assert (case["ci_low"], case["ci_high"]) == wilson_interval(int(worst.sum()), 30)
            whole = [a["robust_accuracy"] for a in entry["attacks"] if a["n"] == 30 and a["eps"] == case["eps"]]
            assert case["robust_accuracy"] <= min(whole)


def test_the_twin_starts_from_the_same_weights_and_seeds_differ(finished):
    accuracy = {
        (e["defence"], e["seed"]): [a["robust_accuracy"] for a in e["attacks"]] for e in results(finished)["runs"]
    }
    assert accuracy["none", 0] != accuracy["none", 1]


def test_resume_keeps_what_is_done_and_adds_what_is_missing(finished, tmp_path, monkeypatch, capsys):
    finished = shutil.copytree(finished, tmp_path / "run")
    before = results(finished)
    trained = []
    original = SensRegTrainer.fit
    monkeypatch.setattr(SensRegTrainer, "fit", lambda self, *a, **k: (trained.append(1), original(self, *a, **k)))
    common = ["--seeds", "2", "--resume"]
    assert run(finished, "--defences", "none,sr+jr", "--attacks", "fgm,pgd,deepfool,hopskipjump", *common) == 0
    assert trained == []
    assert results(finished)["runs"] == before["runs"]
    assert (
        run(finished, "--defences", "none,sr+jr,jr", "--attacks", "fgm,pgd,deepfool,hopskipjump,square", *common) == 0
    )
    assert len(trained) == 2
    after = results(finished)["runs"]
    assert len(after) == 6
    for old in before["runs"]:
        new = next(e for e in after if (e["defence"], e["seed"]) == (old["defence"], old["seed"]))
        assert new["train_seconds"] == old["train_seconds"]
        assert [a for a in new["attacks"] if a["attack"] != "square"] == old["attacks"]
    assert "jr" in capsys.readouterr().out


def test_resume_refuses_other_settings(finished, capsys):
    with pytest.raises(SystemExit) as stop:
        run(finished, "--defences", "none", "--attacks", "fgm", "--resume", "--learning-rate", "0.5")
    assert stop.value.code == 2
    assert "had other settings: `learning_rate` was 0.003 and is now 0.5" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run(finished, "--defences", "none", "--attacks", "fgm")
    assert stop.value.code == 2
    assert "holds the results of an earlier run; add --resume" in capsys.readouterr().err


def test_resume_refuses_other_penalties_and_warns_where_they_are_not_known(finished, tmp_path, capsys, caplog):
    arguments = ["--defences", "sr+jr", "--attacks", "fgm", "--resume"]
    for stored, error in (({"sr+jr": {"jr_weight": 0.5}}, "`penalties` was {'sr+jr': {'jr_weight': 0.5}}"), (None, "")):
        shutil.rmtree(tmp_path, ignore_errors=True)
        shutil.copytree(finished, tmp_path)
        content = results(tmp_path)
        assert set(content["config"]["penalties"]) == {"sr+jr"}
        content["config"]["penalties"] = stored
        (tmp_path / "results.json").write_text(json.dumps(content))
        if error:
            with pytest.raises(SystemExit):
                run(tmp_path, *arguments)
            assert error in capsys.readouterr().err
        else:
            run(tmp_path, *arguments)
    assert caplog.text.count("did not store the settings of the penalties") == 1


def test_resume_refuses_other_data(tmp_path, digits, capsys):
    for number in range(2):
        x = np.roll(digits.x_train[:60, 0], number, axis=0)
        np.savez(
            tmp_path / "own.npz", x_train=x, y_train=digits.y_train[:60], x_test=x[:12], y_test=digits.y_train[:12]
        )
        arguments = ["--dataset", str(tmp_path / "own.npz"), "--defences", "none", "--attacks", "fgm", "--epochs", "1"]
        if number == 0:
            assert main([*arguments, "--model", "mlp", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    with pytest.raises(SystemExit):
        main([*arguments, "--model", "mlp", "--out", str(tmp_path / "run"), "--resume"])
    assert "`data_crc32` was" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_is_continued_without_repeating_what_is_done(tmp_path):
    command = [sys.executable, str(SCRIPT), *SMALL, "--out", str(tmp_path / "run")]
    command += ["--defences", "none,sr,jr", "--attacks", "fgm,pgd,square"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((tmp_path / "run" / "masks").glob("*.npz"))) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = results(tmp_path / "run")["runs"]
    assert before
    subprocess.run([*command, "--resume"], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = {entry["defence"]: entry for entry in results(tmp_path / "run")["runs"]}
    assert set(after) == {"none", "sr", "jr"}
    for old in before:
        assert after[old["defence"]]["train_seconds"] == old["train_seconds"]
        assert [a for a in after[old["defence"]]["attacks"] if a in old["attacks"]] == old["attacks"]
    for entry in after.values():
        assert len(entry["attacks"]) == 6
        assert len(entry["worst_case"]) == 2


def test_a_killed_run_ends_with_the_same_outcomes(tmp_path):
    """Bit for bit: the same masks, whichever attack the run was killed in."""
    arguments = [*SMALL, "--defences", "none,sr", "--attacks", "fgm,pgd,apgd-t,deepfool,square,far-starts"]
    assert run(tmp_path / "whole", *arguments[len(SMALL) :]) == 0
    command = [sys.executable, str(SCRIPT), *arguments, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((tmp_path / "run" / "masks").glob("*.npz"))) >= 7:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert run(tmp_path / "run", *arguments[len(SMALL) :], "--resume") == 0
    whole, resumed = (sorted((tmp_path / name / "masks").glob("*.npz")) for name in ("whole", "run"))
    assert [path.name for path in whole] == [path.name for path in resumed]
    for first, second in zip(whole, resumed, strict=True):
        with np.load(first) as one, np.load(second) as other:
            assert all(np.array_equal(one[name], other[name]) for name in one.files)


def test_resume_with_a_range_and_with_damaged_files(tmp_path):
    out = tmp_path / "run"
    arguments = ["--defences", "none,sr", "--attacks", "fgm,pgd", "--set", "sr.sigma=(0.1,0.3)"]
    assert run(out, *arguments) == 0
    before = results(out)["runs"]
    (out / "checkpoints" / "none-seed0.safetensors").write_bytes(b"cut")
    (out / before[1]["attacks"][0]["mask"]).write_bytes(b"cut")
    (out / before[1]["attacks"][1]["mask"]).unlink()
    assert run(out, *arguments, "--resume") == 0
    after = results(out)["runs"]
    assert after[0]["train_seconds"] != before[0]["train_seconds"]
    for old, new in zip(before, after, strict=True):
        assert sorted((a["attack"], a["eps"], a["robust_accuracy"]) for a in old["attacks"]) == sorted(
            (a["attack"], a["eps"], a["robust_accuracy"]) for a in new["attacks"]
        )
        assert new["status"] == "ok"


def test_a_run_whose_worker_died_is_filled_in_later(tmp_path):
    out, arguments = tmp_path / "run", ["--defences", "none,sr", "--attacks", "fgm"]
    assert run(out, *arguments) == 0
    content = results(out)
    for entry in content["runs"]:
        entry.update(status="error", reason="RuntimeError: the process that attacked it died")
    (out / "results.json").write_text(json.dumps(content))
    assert run(out, *arguments, "--resume") == 0
    assert [entry["status"] for entry in results(out)["runs"]] == ["ok", "ok"]


def test_validation_uses_training_images_only(tmp_path):
    assert run(tmp_path / "run", "--defences", "none", "--attacks", "fgm", "--validation") == 0
    assert "held-out training images" in (tmp_path / "run" / "report.md").read_text()


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    lock = FolderLock(tmp_path)
    assert lock.acquire()
    with pytest.raises(SystemExit) as stopped:
        main([*ARGUMENTS, "--out", str(tmp_path)])
    lock.release()
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"`--out` {tmp_path} is in use by another run (process " in last
    assert not (tmp_path / "results.json").exists()


def test_results_written_in_the_meantime_are_not_overwritten(tmp_path, capsys, monkeypatch):
    """Another run ended between the first look at the folder and the lock."""
    plan = suite.plan_suite

    def late(request):
        found = plan(request)
        seen = iter([None, "results of another run"])
        monkeypatch.setattr(suite, "stored_results", lambda out: next(seen))
        return found

    monkeypatch.setattr(suite, "plan_suite", late)
    with pytest.raises(SystemExit) as stopped:
        main([*ARGUMENTS, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert "was written to by another run just now; start again" in capsys.readouterr().err
    assert FolderLock(tmp_path).acquire()


def test_the_folder_is_free_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "train_run", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main([*ARGUMENTS, "--out", str(tmp_path)])
    monkeypatch.undo()
    assert main([*ARGUMENTS, "--out", str(tmp_path), "--resume"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["runs"][0]["status"] == "ok"
    assert not (tmp_path / ".lock").exists()


def test_a_request_in_python_gives_what_the_command_line_gives(finished, tmp_path):
    request = SuiteRequest(
        defences=("none",), attacks=("fgm", "pgd"), train_size=300, test_size=30, epochs=2, model="mlp",
        out=tmp_path / "run", verbose=False,
    )  # fmt: skip
    found = run_suite(request)
    stored = read_results(finished / "results.json").run("none", 0)
    assert found == read_results(tmp_path / "run" / "results.json")
    outcomes = {attack.key: attack.robust_accuracy for attack in stored.attacks}
    assert {key: outcomes[key] for key in outcomes if key[0] in ("fgm", "pgd")} == {
        attack.key: attack.robust_accuracy for attack in found.run("none", 0).attacks
    }
    with pytest.raises(ValueError, match="add --resume"):
        run_suite(request)
