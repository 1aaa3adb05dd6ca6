"""Several norms and their union, what survives for later attacks, random noise."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.config.threat_models import allowed, perturbation_size, random_noise
from art_sensreg.utils.stats import wilson_interval
from tests.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "run_art_suite.py"
SMALL = ["--train-size", "300", "--test-size", "30", "--epochs", "2", "--model", "mlp", "--quiet"]
ATTACKS = "deepfool,pgd,fgm,hopskipjump"


def run(out, *arguments):
    return main([*SMALL, "--out", str(out), *arguments])


def results(out):
    return json.loads((Path(out) / "results.json").read_text())


def masks(out, row):
    with np.load(Path(out) / row["mask"]) as file:
        return {name: file[name] for name in ("robust", "attacked", "seen")}


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "run"
    assert run(out, "--defences", "none,sr", "--attacks", f"{ATTACKS},square", "--norm", "linf,l2,l1") == 0
    return out


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "run"
    assert run(out, "--defences", "none", "--attacks", ATTACKS, "--all-points") == 0
    return out


def test_of_several_norms_each_has_its_sizes(several):
    data = results(several)
    assert data["config"]["norm"] == ["linf", "l2", "l1"]
    assert set(data["config"]["eps"]) == {"linf", "l2", "l1"}
    for entry in data["runs"]:
        sizes = [(case["norm"], case["eps"]) for case in entry["worst_case"]]
        assert sizes == [(norm, eps) for norm, group in data["config"]["eps"].items() for eps in group]
        assert {row["attack"] for row in entry["attacks"] if row["norm"] == "l1"} == {"fgm", "pgd", "deepfool"}
    report = (several / "report.md").read_text()
    assert "square: not defined in l1, left out there" in report
    assert "Union over the norms" in report
    assert {"robustness.png", "robustness-l2.png", "robustness-l1.png"} <= {path.name for path in several.iterdir()}


def test_the_union_comes_from_the_masks(several):
    data = results(several)
    for entry in data["runs"]:
        for number, union in enumerate(entry["union"]):
            assert union["eps"] == {norm: sizes[number] for norm, sizes in data["config"]["eps"].items()}
            rows = [row for row in entry["attacks"] if union["eps"][row["norm"]] == row["eps"]]
            worst = np.minimum.reduce([masks(several, row)["robust"] for row in rows])
            assert union["robust_accuracy"] == worst.mean()
            assert (union["ci_low"], union["ci_high"]) == wilson_interval(int(worst.sum()), 30)
            single = [
                case["robust_accuracy"] for case in entry["worst_case"] if case["eps"] == union["eps"][case["norm"]]
            ]
            assert union["robust_accuracy"] <= min(single)


def test_later_attacks_see_only_what_earlier_ones_left(several):
    for entry in results(several)["runs"]:
        for norm in ("linf", "l2"):
            eps = min(row["eps"] for row in entry["attacks"] if row["norm"] == norm)
            rows = [row for row in entry["attacks"] if (row["norm"], row["eps"]) == (norm, eps)]
            assert [row["attack"] for row in rows] == ["fgm", "pgd", "deepfool", "square", "hopskipjump"]
            left = None
            for row in rows:
                mask = masks(several, row)
                assert row["seen"] == mask["seen"].sum()
                if left is None:
                    assert mask["seen"].sum() == round(entry["clean_accuracy"] * 30)
                else:
                    assert np.array_equal(mask["seen"], left & mask["attacked"])
                    assert not (mask["robust"] & ~left).any()
                    assert np.array_equal(mask["robust"][~mask["seen"]], left[~mask["seen"]])
                left = mask["robust"]
            case = next(case for case in entry["worst_case"] if (case["norm"], case["eps"]) == (norm, eps))
            assert case["robust_accuracy"] == left.mean()


def test_everything_on_everything_finds_at_least_as_much(several, everything):
    """Whether an attack sees an image or not, the worst case is the same but for the random draws of PGD."""
    (entry,) = results(everything)["runs"]
    for row in entry["attacks"]:
        mask = masks(everything, row)
        assert row["seen"] == round(entry["clean_accuracy"] * row["n"]) or row["n"] < 30
        assert not (mask["robust"] & ~mask["seen"] & mask["attacked"]).any()
    survivors = next(other for other in results(several)["runs"] if other["defence"] == "none")
    for case, other in zip(entry["worst_case"], survivors["worst_case"], strict=False):
        assert case["robust_accuracy"] == pytest.approx(other["robust_accuracy"], abs=0.07)


def test_the_choice_is_part_of_the_settings(everything, capsys):
    with pytest.raises(SystemExit):
        run(everything, "--defences", "none", "--attacks", ATTACKS, "--resume")
    assert "`all_points` was True and is now False" in capsys.readouterr().err


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


def test_accuracy_under_random_noise_is_stored_and_shown(several):
    data = results(several)
    for entry in data["runs"]:
        assert [(row["norm"], row["eps"]) for row in entry["random_noise"]] == [
            (norm, eps) for norm, group in data["config"]["eps"].items() for eps in group
        ]
        for row, case in zip(entry["random_noise"], entry["worst_case"], strict=True):
            assert row["n"] == 30
            assert row["accuracy"] >= case["robust_accuracy"]
    assert "Random noise of each size" in (several / "report.md").read_text()
    assert "Random noise of each size" in (several / "report.html").read_text()


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5), ("l1", 2.0)])
def test_noise_has_the_size_asked_for(norm, eps):
    x = np.full((200, 1, 8, 8), 0.5, dtype=np.float32)
    noisy = random_noise(x, norm, eps, seed=0)
    size = perturbation_size(x, noisy, norm)
    assert allowed(x, noisy, norm, eps).all()
    if norm == "linf":
        assert np.abs(noisy - x).mean() == pytest.approx(eps / 2, rel=0.02)  # uniform
    else:
        np.testing.assert_allclose(size, eps, rtol=1e-4)
    assert not np.array_equal(noisy, random_noise(x, norm, eps, seed=1))


def test_transfer_needs_another_model(tmp_path):
    out = tmp_path / "run"
    assert run(out, "--defences", "none", "--attacks", "fgm,transfer") == 0
    (entry,) = results(out)["runs"]
    rows = [row for row in entry["attacks"] if row["attack"] == "transfer"]
    assert [(row["status"], row["mask"], row["n"]) for row in rows] == [("not_applicable", None, 0)] * 2
    assert "no other model of this seed" in rows[0]["reason"]
    assert "transfer not applicable: no other model" in (out / "report.md").read_text()
    # The order of the defences does not matter: all are trained before the first is attacked.
    assert run(out, "--defences", "none,art-madry,sr", "--attacks", "fgm,transfer", "--resume") == 0
    used = {
        entry["defence"]: next(row for row in entry["attacks"] if row["attack"] == "transfer")["surrogates"]
        for entry in results(out)["runs"]
    }
    assert used == {"none": ["art-madry"], "art-madry": ["none"], "sr": ["none", "art-madry"]}
