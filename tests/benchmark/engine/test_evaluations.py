"""What the suite measures beside attacks: certificates, queries, EOT curves, explanations, claims."""

import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.engine import suite
from tests.benchmark.runs import raising, results, run

DEFENCES = "none,sr+jr,art-adversarial,rse,art-smoothing,art-ibp-fixed,art-rounded,art-class-labels-fixed"
SMALL = ["--train-size", "400", "--test-size", "30", "--epochs", "4", "--model", "mlp", "--quiet", "--interpret"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("measures") / "run"
    arguments = ["--defences", DEFENCES, "--attacks", "fgm,pgd", "--eps", "0.05,0.1", "--out", str(out), *SMALL]
    assert main(arguments) == 0
    return out, arguments


@pytest.fixture(scope="module")
def runs(finished):
    return {run["defence"]: run for run in results(finished[0])["runs"]}


def test_everything_ran(runs):
    assert {run["status"] for run in runs.values()} == {"ok"}


@pytest.mark.parametrize(("name", "norm"), [("art-smoothing", "l2"), ("art-ibp-fixed", "linf")])
def test_certified_accuracy(runs, name, norm):
    certified = runs[name]["certified"]
    assert {case["norm"] for case in certified} == {norm}
    shares = [case["accuracy"] for case in certified]
    assert shares == sorted(shares, reverse=True)  # larger sizes, fewer certificates
    for case in certified:
        assert case["ci_low"] <= case["accuracy"] <= case["ci_high"]
        assert case["accuracy"] <= runs[name]["clean_accuracy"] + 0.2
        worst = [other for other in runs[name]["worst_case"] if (other["norm"], other["eps"]) == (norm, case["eps"])]
        for other in worst:  # what is proved cannot be broken
            assert other["robust_accuracy"] >= case["accuracy"] - 1e-9
    assert all("certified" not in run for other, run in runs.items() if not other.startswith(("art-smooth", "art-ibp")))


def test_smoothing_is_certified_at_sizes_that_its_noise_can_reach(runs):
    """The run has no sizes in L2, and the data set's may be beyond the largest radius of any model."""
    assert [case["eps"] for case in runs["art-smoothing"]["certified"]] == [0.25, 0.5]  # its sigma is 0.25


@pytest.mark.parametrize("name", ["rse", "art-smoothing"])
def test_random_models_are_attacked_by_eot_only_and_shown_as_a_curve(runs, name):
    run = runs[name]
    assert {(case["eps"], case["samples"]) for case in run["eot_curve"]} == {
        (eps, draws) for eps in (0.05, 0.1) for draws in (1, 4, 16, 64)
    }
    assert all(0 <= case["ci_low"] <= case["robust_accuracy"] <= case["ci_high"] <= 1 for case in run["eot_curve"])
    assert {row["view"] for row in run["attacks"]} == {"default"}
    assert all("random" in row for row in run["attacks"] if "eot" not in row["attack"])  # scored with fresh draws
    assert {row["attack"] for row in run["attacks"]} == {"fgm", "pgd", *(f"pgd-eot-{n}" for n in (1, 4, 16, 64))}
    assert all("eot_curve" not in other for key, other in runs.items() if key not in ("rse", "art-smoothing"))


def test_queries_are_counted_with_and_without_the_defence(runs):
    for name in ("art-rounded", "art-class-labels-fixed"):
        found = runs[name]["queries"]
        assert found["mean"] > 10
        assert found["undefended_mean"] > 10
        assert found["n"] == min(30, round(30 * runs["none"]["clean_accuracy"]))
    assert "queries" not in runs["none"]
    # Scores of three decimals tell as much as the whole; decisions alone tell less.
    assert (
        runs["art-class-labels-fixed"]["queries"]["robust_accuracy"]
        >= runs["art-rounded"]["queries"]["robust_accuracy"]
    )


def test_postprocessing_is_attacked_on_the_scores_and_underneath(runs):
    for name in ("art-rounded", "art-class-labels-fixed"):
        assert {row["view"] for row in runs[name]["attacks"]} == {"default", "adaptive"}
        adaptive = [row for row in runs[name]["attacks"] if row["view"] == "adaptive"]
        plain = {(row["attack"], row["eps"]): row["robust_accuracy"] for row in runs["none"]["attacks"]}
        for row in adaptive:
            if row["attack"] == "fgm":  # the undefended model under the same attack, but for ties of rounded scores
                assert row["robust_accuracy"] == pytest.approx(plain["fgm", row["eps"]], abs=0.1)


def test_explanations_of_every_model(runs, finished):
    for entry in runs.values():
        metrics = {score["metric"] for score in entry["explanations"]}
        assert {"insertion", "deletion", "infidelity", "max_sensitivity"} <= metrics
        assert len(entry["explanations"]) >= 10
    picture = (finished[0] / "saliency.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_claims_stand_in_the_table(runs, finished):
    assert {run["claim"]["status"] for run in runs.values()} <= {"met", "not met", "none made"}
    assert runs["none"]["claim"]["status"] == "none made"
    for page in ("report.md", "report.html"):
        text = (finished[0] / page).read_text()
        for words in ("Certified accuracy", "Queries of a score-based attack", "n = 64", "insertion", "Claims"):
            assert words in text
    page = (finished[0] / "report.html").read_text()
    assert all(f">{part}<" in page for part in ("Random models", "Saliency maps", "Images before and after an attack"))
    assert (finished[0] / "eot-curve.png").exists()


def test_resuming_measures_nothing_twice(finished):
    out, arguments = finished
    before = results(out)["runs"]
    assert main([*arguments, "--resume"]) == 0
    assert results(out)["runs"] == before


def test_an_evaluation_that_failed_is_made_up_for(tmp_path, monkeypatch):
    arguments = ["--defences", "rse", "--attacks", "fgm"]
    monkeypatch.setattr(suite, "evaluate_run", raising(RuntimeError("no measure")))
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
