"""The command line: a small run, its files, resuming, failing cells, wrong arguments."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.trainers import SensRegTrainer
from art_sensreg.utils.stats import wilson_interval
from tests.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "run_art_suite.py"
SMALL = ["--train-size", "300", "--test-size", "30", "--epochs", "2", "--model", "mlp", "--quiet"]


def run(out, *arguments):
    return main([*SMALL, "--out", str(out), *arguments])


def results(out):
    return json.loads((Path(out) / "results.json").read_text())


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
        assert len(list(csv.DictReader(file))) == 4 * 4 * 2
    page = (finished / "report.html").read_text()
    assert "sr+jr" in page
    assert "robustness.png" in page


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


def test_resume_keeps_what_is_done_and_adds_what_is_not(finished, tmp_path, monkeypatch, capsys):
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


def test_a_killed_run_is_continued_without_repeating_cells(tmp_path):
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


def replaced(monkeypatch, name, **changes):
    from dataclasses import replace

    monkeypatch.setitem(DEFENCES, name, replace(DEFENCES[name], **changes))


def failing(task, options):
    raise RuntimeError("it broke")


def test_a_failing_cell_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    replaced(monkeypatch, "sr", training=failing)
    replaced(monkeypatch, "art-trades", training=failing)
    replaced(monkeypatch, "art-trades-fixed", training=failing)
    out = tmp_path / "run"
    assert run(out, "--defences", "sr,art-trades,art-trades-fixed,none", "--attacks", "fgm") == 1
    status = {entry["defence"]: (entry["status"], entry["reason"]) for entry in results(out)["runs"]}
    assert status == {
        "sr": ("error", "RuntimeError: it broke"),
        "art-trades": ("not_applicable", "RuntimeError: it broke"),
        "art-trades-fixed": ("error", "RuntimeError: it broke"),  # what is repaired must run
        "none": ("ok", ""),
    }
    shown = capsys.readouterr().out
    assert "sr (seed 0): failed: RuntimeError: it broke" in shown
    assert "art-trades (seed 0): not applicable" in shown
    monkeypatch.undo()
    assert run(out, "--defences", "sr,none", "--attacks", "fgm", "--resume") == 0
    assert {entry["defence"]: entry["status"] for entry in results(out)["runs"]}["sr"] == "ok"


def test_a_failing_attack_is_reported_and_filled_in_later(tmp_path, monkeypatch):
    from dataclasses import replace

    from art_sensreg.benchmark.attacks.registry import ATTACKS

    broken = replace(ATTACKS["pgd"], build=lambda *_: (_ for _ in ()).throw(RuntimeError("no attack")))
    monkeypatch.setitem(ATTACKS, "pgd", broken)
    out = tmp_path / "run"
    # Small sizes: where no image is left, an attack cannot fail either.
    arguments = ["--defences", "none", "--attacks", "pgd,fgm", "--eps", "0.01,0.02"]
    assert run(out, *arguments) == 1
    (entry,) = results(out)["runs"]
    assert entry["status"] == "error"
    assert "pgd: RuntimeError: no attack" in entry["reason"]
    failed = [(a["attack"], a["robust_accuracy"] is None, a["status"]) for a in entry["attacks"]]
    assert failed == [("fgm", False, "ok")] * 2 + [("pgd", True, "error")] * 2
    monkeypatch.undo()
    assert run(out, *arguments, "--resume") == 0
    (entry,) = results(out)["runs"]
    assert (entry["status"], entry["reason"]) == ("ok", "")
    assert len(entry["attacks"]) == 4


def test_the_l2_norm_and_own_files_and_options(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8), rng.integers(0, 4, 60)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
    out = tmp_path / "run"
    code = main(
        [
            "--dataset", str(tmp_path / "own.npz"), "--defences", "sr+jr,art-madry,art-fbf",
            "--attacks", "pgd,carlini-l2", "--norm", "l2", "--eps", "0.5,0.25", "--budget", "smoke",
            "--epochs", "1", "--model", "cnn-small",
            "--activation", "gelu", "--norm-layer", "batch", "--set", "sr+jr.sigma=0.05", "--set", "sr+jr.noise=sphere",
            "--out", str(out), "--quiet",
        ]
    )  # fmt: skip
    assert code == 0
    data = results(out)
    assert data["config"]["eps"] == [0.25, 0.5]
    assert data["config"]["options"] == {"sr+jr": {"sigma": 0.05, "noise": "sphere"}}
    by_name = {entry["defence"]: entry for entry in data["runs"]}
    assert by_name["sr+jr"]["status"] == "ok"
    assert by_name["art-fbf"]["status"] == "not_applicable"
    assert by_name["art-madry"]["reason"] == "ART's MadryPGD builds an L-inf attack only; this run is in l2"


# What ART cannot train on a small perceptron with BatchNorm, or not as shipped, and the reason that the table gives.
REASONS = {
    "art-oaat": "this model has none",
    "art-oaat-fixed": "this model has none",
    "art-ibp": "this model has BatchNorm1d",
    "art-ibp-fixed": "this model has BatchNorm1d",
    "art-deepz": "this model has BatchNorm1d",
    "art-deepz-fixed": "this model has BatchNorm1d",
}


@pytest.mark.parametrize("name", [name for name in DEFENCES if name.startswith("art-")])
def test_every_baseline_trains_or_says_why_not(tmp_path, name):
    assert run(tmp_path / "run", "--defences", name, "--attacks", "fgm", "--norm-layer", "batch") == 0
    (entry,) = results(tmp_path / "run")["runs"]
    assert entry["status"] == ("not_applicable" if name in REASONS else "ok")
    assert REASONS.get(name, "") in entry["reason"]
    page = (tmp_path / "run" / "report.md").read_text()
    assert f"| {name} |" in page
    assert (f"not applicable: {entry['reason']} |" in page) == (name in REASONS)


def test_validation_uses_training_images_only(tmp_path):
    assert run(tmp_path / "run", "--defences", "none", "--attacks", "fgm", "--validation") == 0
    assert "held-out training images" in (tmp_path / "run" / "report.md").read_text()


def test_images_that_no_attack_saw_do_not_count(tmp_path):
    assert run(tmp_path / "run", "--defences", "none", "--attacks", "hopskipjump") == 0
    (entry,) = results(tmp_path / "run")["runs"]
    assert {case["n"] for case in entry["worst_case"]} == {10}
    with np.load(tmp_path / "run" / entry["attacks"][0]["mask"]) as file:
        assert file["robust"][~file["attacked"]].mean() < 1  # wrong predictions are not robust


def test_a_model_that_is_always_wrong_has_worst_case_0(tmp_path, digits):
    """All test images get a label that the model never predicts."""
    y = np.zeros(60, dtype=int)
    y[0] = 2
    np.savez(
        tmp_path / "own.npz",
        x_train=digits.x_train[:60, 0],
        y_train=y,
        x_test=digits.x_test[:5, 0],
        y_test=np.full(5, 1),
    )
    out = tmp_path / "run"
    arguments = ["--defences", "none", "--attacks", "all", "--budget", "smoke", "--epochs", "3", "--model", "mlp"]
    assert main(["--dataset", str(tmp_path / "own.npz"), *arguments, "--out", str(out), "--quiet"]) == 0
    (entry,) = results(out)["runs"]
    assert entry["clean_accuracy"] == 0
    assert [case["robust_accuracy"] for case in entry["worst_case"]] == [0, 0]


def test_two_classes(tmp_path, digits, capsys):
    rows = digits.y_train < 2
    x, y = digits.x_train[rows, 0], digits.y_train[rows]
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:12], y_test=y[:12])
    common = [
        "--dataset",
        str(tmp_path / "own.npz"),
        "--defences",
        "none",
        "--budget",
        "smoke",
        "--model",
        "mlp",
        "--quiet",
    ]
    assert main([*common, "--attacks", "all", "--epochs", "1", "--out", str(tmp_path / "run")]) == 0
    (entry,) = results(tmp_path / "run")["runs"]
    assert "apgd-dlr" not in {attack["attack"] for attack in entry["attacks"]}
    assert "apgd-dlr: needs 3 classes, left out" in capsys.readouterr().out
    assert "autoattack: needs 4 classes, left out" in (tmp_path / "run" / "report.md").read_text()
    with pytest.raises(SystemExit) as stop:
        main([*common, "--attacks", "apgd-dlr"])
    assert stop.value.code == 2
    assert "`--attacks` names apgd-dlr, which needs 3 classes; the data set has 2" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("norm", "name", "status"),
    [("l2", "at+sr+jr", "ok"), ("l2", "n-fgsm", "not_applicable"), ("l2", "fire", "not_applicable"),
     ("l1", "at+sr+jr", "not_applicable"), ("l1", "pni", "not_applicable"), ("l2", "pni", "ok")],
)  # fmt: skip
def test_adversaries_train_in_the_norm_of_the_run_or_not_at_all(tmp_path, norm, name, status):
    assert run(tmp_path / "run", "--defences", name, "--attacks", "fgm", "--norm", norm, "--eps", "0.5") == 0
    (entry,) = results(tmp_path / "run")["runs"]
    assert entry["status"] == status
    assert (f"this run is in {norm}" in entry["reason"]) == (status == "not_applicable")


def test_a_measure_that_failed_is_made_up_for(tmp_path, monkeypatch):
    from art_sensreg.benchmark.engine import suite

    arguments = ["--defences", "rse", "--attacks", "fgm"]
    monkeypatch.setattr(suite, "evaluate_run", lambda *_: (_ for _ in ()).throw(RuntimeError("no measure")))
    assert run(tmp_path / "run", *arguments) == 1
    (entry,) = results(tmp_path / "run")["runs"]
    assert (entry["status"], entry["reason"]) == ("error", "RuntimeError: no measure")
    monkeypatch.undo()
    assert run(tmp_path / "run", *arguments, "--resume") == 0
    (entry,) = results(tmp_path / "run")["runs"]
    assert entry["status"] == "ok"
    assert len(entry["eot_curve"]) == 8
    # The worst case counts what the curve found.
    for case in entry["worst_case"]:
        curve = [c["robust_accuracy"] for c in entry["eot_curve"] if c["eps"] == case["eps"]]
        assert case["robust_accuracy"] <= min(curve)


def test_a_cell_whose_worker_died_is_filled_in_later(tmp_path):
    out, arguments = tmp_path / "run", ["--defences", "none,sr", "--attacks", "fgm"]
    assert run(out, *arguments) == 0
    content = results(out)
    for entry in content["runs"]:
        entry.update(status="error", reason="RuntimeError: the process that attacked it died")
    (out / "results.json").write_text(json.dumps(content))
    assert run(out, *arguments, "--resume") == 0
    assert [entry["status"] for entry in results(out)["runs"]] == ["ok", "ok"]


def test_what_crashed_in_art_is_tried_again(tmp_path, monkeypatch):
    replaced(monkeypatch, "art-fbf", training=failing)
    arguments = ["--defences", "none,art-fbf", "--attacks", "fgm"]
    assert run(tmp_path / "run", *arguments) == 0
    assert results(tmp_path / "run")["runs"][1]["status"] == "not_applicable"
    monkeypatch.undo()
    assert run(tmp_path / "run", *arguments, "--resume") == 0
    assert results(tmp_path / "run")["runs"][1]["status"] == "ok"


def test_images_that_are_not_square(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 1, 8, 5), dtype=np.float32), np.arange(60) % 3
    np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:12], y_test=y[:12])
    arguments = ["--dataset", str(tmp_path / "own.npz"), "--attacks", "fgm,square", "--model", "mlp", "--epochs", "1"]
    assert main([*arguments, "--defences", "none,art-rounded", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    first, rounded = results(tmp_path / "run")["runs"]
    (reason,) = {row["reason"] for row in first["attacks"] if row["attack"] == "square"}
    assert "needs square images; these are 8 x 5" in reason
    assert rounded["notes"] == ["no queries counted: square as ART has it needs square images; these are 8 x 5"]
