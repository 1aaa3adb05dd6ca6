"""Attacks on a trained defence: later ones see what earlier ones left, and the worst case counts what was attacked."""

import numpy as np
import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.utils.stats import wilson_interval
from tests.benchmark.runs import masks, results, run

CHOSEN = "deepfool,pgd,fgm,hopskipjump"


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "run"
    assert run(out, "--defences", "none,sr", "--attacks", f"{CHOSEN},square", "--norm", "linf,l2,l1") == 0
    return out


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    out = tmp_path_factory.mktemp("suite") / "run"
    assert run(out, "--defences", "none", "--attacks", CHOSEN, "--all-points") == 0
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
        run(everything, "--defences", "none", "--attacks", CHOSEN, "--resume")
    assert "`all_points` was True and is now False" in capsys.readouterr().err


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
