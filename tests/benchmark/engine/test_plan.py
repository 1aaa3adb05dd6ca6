"""What a run will do, and what is refused before anything is trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from art_sensreg.benchmark import SuiteRequest
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.defences.registry import DEFENCES, SMOKE_DEFENCES, optimization_of, options_of
from art_sensreg.benchmark.engine.plan import plan_suite
from tests.benchmark.runs import results


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


def test_defaults_follow_the_data_set_and_the_budget():
    plan = plan_suite(SuiteRequest())
    assert plan.settings.defences == SMOKE_DEFENCES
    assert plan.settings.threats == (Threat("linf", (0.1, 0.2)),)
    assert (plan.settings.epochs, plan.settings.budget) == (plan.recipe.epochs, "smoke")
    assert plan.out.parent == Path("results")
    assert plan_suite(SuiteRequest(budget="quick")).settings.defences == tuple(DEFENCES)


def test_workers_are_for_the_cpu_and_as_many_as_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert plan_suite(SuiteRequest()).workers == 1
    assert plan_suite(SuiteRequest(jobs=3, device="cpu")).workers == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"defences": ("magic",)}, "`defences` is 'magic'"),
        ({"attacks": ("pdg",)}, "Did you mean 'pgd'"),
        ({"norms": ("l3",)}, "`norms` is 'l3'"),
        ({"seeds": 0}, "`seeds` is 0"),
        ({"eps": ((2.0,),)}, "`--eps` is 2"),
        ({"options": {"sr": {"sgima": 1}}}, "names the option 'sgima' of sr"),
        ({"options": {"sr": {"sigma": -1}}}, "`sigma` is -1"),
        ({"dataset": "missing.npz"}, "there is no file"),
    ],
)
def test_what_python_callers_misspell_is_refused(asked, message):
    with pytest.raises((ValueError, OSError), match=message):
        plan_suite(SuiteRequest(**asked))


def test_an_attack_whose_package_is_missing_is_left_out_and_refused_by_name(monkeypatch):
    monkeypatch.setattr("art_sensreg.benchmark.engine.plan.find_spec", lambda name: None)
    plan = plan_suite(SuiteRequest(dataset="digits", budget="smoke"))
    assert "autoattack" not in plan.settings.attacks
    assert "apgd-ce" in plan.settings.attacks
    assert plan.left_out == ("autoattack: needs pyautoattack: pip install 'art_sensreg[bench]', left out",)
    with pytest.raises(ValueError, match="`--attacks` names autoattack, which needs pyautoattack"):
        plan_suite(SuiteRequest(dataset="digits", attacks=("autoattack",)))


def test_options_of_a_defence_that_does_not_run_are_refused():
    with pytest.raises(ValueError, match=r"`--set sr\.sigma` is for a defence that is not in this run: none, sr\+jr"):
        plan_suite(SuiteRequest(defences=("none", "sr+jr"), options={"sr": {"sigma": 0.2}}))


def test_the_learning_rate_of_a_run_is_that_of_rows_with_one_of_their_own():
    names = ("none", "art-trades", "art-awp", "art-fbf-fixed")
    given = {"art-awp": {"learning_rate": 0.02}}
    settings = plan_suite(
        SuiteRequest(dataset="digits", defences=names, learning_rate=0.05, options=given)
    ).settings  # fmt: skip
    rates = {name: options_of(settings, name).get("learning_rate") for name in names}
    assert rates == {"none": None, "art-trades": 0.05, "art-awp": 0.02, "art-fbf-fixed": None}
    settings = plan_suite(SuiteRequest(dataset="digits", defences=names)).settings
    assert options_of(settings, "art-trades")["learning_rate"] == DEFENCES["art-trades"].options["learning_rate"]


_SGD = {"optimizer": "sgd", "learning_rate": 0.2, "weight_decay": 1e-3}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, _SGD),
        ({"options": {"carried": {"learning_rate": 0.1}}}, {**_SGD, "learning_rate": 0.1}),
        ({"options": {"carried": {"momentum": 0.8}}}, {**_SGD, "momentum": 0.8}),
        ({"options": {"carried": {"optimizer": "adam"}}}, {"optimizer": "adam"}),
        ({"optimization": OptimizationSettings(weight_decay=0.0)}, {"optimizer": "sgd", "learning_rate": 0.2}),
        ({"optimization": OptimizationSettings(optimizer="adamw")}, {}),
        ({"learning_rate": 0.01}, {}),
    ],
)  # fmt: skip
def test_the_optimizer_of_a_recipe_stands_in_the_settings_where_nothing_else_is_asked_for(monkeypatch, asked, expected):
    monkeypatch.setitem(RECIPES, "digits", replace(RECIPES["digits"], optimization={"carried": _SGD}))
    settings = plan_suite(SuiteRequest(dataset="digits", defences=("none", "carried"), **asked)).settings
    assert settings.options.get("carried", {}) == expected
    assert "none" not in settings.options
    optimization, rate = optimization_of(settings, "carried")
    assert (optimization.optimizer or "adam") == expected.get("optimizer", settings.optimization.optimizer or "adam")
    assert rate == expected.get("learning_rate", settings.learning_rate)
    assert optimization_of(settings, "none") == (settings.optimization, settings.learning_rate)


def test_a_run_goes_on_in_a_folder_that_is_named():
    with pytest.raises(ValueError, match="`--resume` was given without `--out`"):
        plan_suite(SuiteRequest(defences=("none",), resume=True))
