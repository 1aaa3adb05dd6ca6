"""Training of the defences of a run: what cannot be trained says why, what crashed is tried again."""

from dataclasses import replace

import pytest

from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.defences.registry import DEFENCES
from tests.benchmark.runs import raising, replaced, results, run

# What ART cannot train on a small perceptron with BatchNorm, or not as shipped, and the reason that the table gives.
REASONS = {
    "art-oaat": "this model has none",
    "art-oaat-fixed": "this model has none",
    "art-ibp": "this model has BatchNorm1d",
    "art-ibp-fixed": "this model has BatchNorm1d",
    "art-deepz": "this model has BatchNorm1d",
    "art-deepz-fixed": "this model has BatchNorm1d",
}


# Those that take longest and have a test of their own.
LONG = (
    *("art-total-var-min", "art-smoothadv", "art-smoothmix", "art-macer", "art-smoothadv-fixed", "art-smoothmix-fixed"),
    *("art-jpeg", "art-spatial-smoothing", "art-feature-squeezing", "art-class-labels", "art-class-labels-fixed"),
    *("art-output-noise", "art-rounded", "art-reverse-sigmoid", "art-high-confidence"),
)


def baseline(name: str):
    return pytest.param(name, marks=pytest.mark.slow) if name in LONG else name


@pytest.mark.parametrize("name", [baseline(name) for name in DEFENCES if name.startswith("art-")])
def test_every_baseline_trains_or_says_why_not(tmp_path, name):
    assert run(tmp_path / "run", "--defences", name, "--attacks", "fgm", "--norm-layer", "batch") == 0
    (entry,) = results(tmp_path / "run")["runs"]
    assert entry["status"] == ("not_applicable" if name in REASONS else "ok")
    assert REASONS.get(name, "") in entry["reason"]
    page = (tmp_path / "run" / "report.md").read_text()
    assert f"| {name} |" in page
    assert (f"not applicable: {entry['reason']} |" in page) == (name in REASONS)


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


def test_a_failing_run_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    replaced(monkeypatch, "sr", training=raising(RuntimeError("it broke")))
    replaced(monkeypatch, "art-trades", training=raising(RuntimeError("it broke")))
    replaced(monkeypatch, "art-trades-fixed", training=raising(RuntimeError("it broke")))
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


def test_an_optimizer_of_the_recipe_that_has_too_few_steps_is_said(tmp_path, monkeypatch, caplog):
    own = {"optimizer": "sgd", "learning_rate": 0.1}
    monkeypatch.setitem(RECIPES, "digits", replace(RECIPES["digits"], optimization={"carried": own}))
    asked = ("--defences", "none,carried", "--attacks", "fgm")
    assert run(tmp_path / "run", *asked) == 0
    said = [record.getMessage() for record in caplog.records if "steps" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("carried has only ")
    assert said[0].endswith("its optimizer (sgd) is for 400 or more: try --set carried.optimizer=adam")
    caplog.clear()
    assert run(tmp_path / "adam", *asked, "--set", "carried.optimizer=adam") == 0
    assert not [record for record in caplog.records if "has only" in record.getMessage()]


def test_what_crashed_in_art_is_tried_again(tmp_path, monkeypatch):
    replaced(monkeypatch, "art-fbf", training=raising(RuntimeError("it broke")))
    arguments = ["--defences", "none,art-fbf", "--attacks", "fgm"]
    assert run(tmp_path / "run", *arguments) == 0
    assert results(tmp_path / "run")["runs"][1]["status"] == "not_applicable"
    monkeypatch.undo()
    assert run(tmp_path / "run", *arguments, "--resume") == 0
    assert results(tmp_path / "run")["runs"][1]["status"] == "ok"


def test_a_stored_model_that_cannot_be_made_again_is_trained_again(tmp_path, monkeypatch):
    arguments = ["--defences", "none,sr", "--attacks", "fgm"]
    assert run(tmp_path / "run", *arguments) == 0
    calls = []
    original = DEFENCES["sr"].new_model

    def once(spec, options):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no model")
        return original(spec, options)

    replaced(monkeypatch, "sr", architecture=once)
    assert run(tmp_path / "run", *arguments, "--resume") == 0
    assert [entry["status"] for entry in results(tmp_path / "run")["runs"]] == ["ok"] * 2
    assert len(calls) > 1


def test_what_cannot_be_optimised_as_asked_is_in_the_table(tmp_path):
    words = ["--defences", "none,art-macer,art-madry", "--attacks", "fgm", "--label-smoothing", "0.1"]
    out, other = tmp_path / "run", tmp_path / "other"
    assert run(out, *words, "--weight-average", "0.99", "--set", "art-madry.max_iter=1") == 0
    status = {entry["defence"]: (entry["status"], entry["reason"]) for entry in results(out)["runs"]}
    assert status["none"] == status["art-madry"] == ("ok", "")
    assert status["art-macer"][0] == "not_applicable"
    assert "(art-macer.label_smoothing=None trains it in its own way)" in status["art-macer"][1]
    exempt = ["--set", "art-macer.label_smoothing=None", "--set", "art-macer.samples=2"]
    assert run(other, "--defences", "art-macer", *words[2:], *exempt) == 0
    assert results(other)["runs"][0]["status"] == "ok"
