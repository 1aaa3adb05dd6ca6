"""Short ways to make a defence: any ART trainer, and a trainer with penalties."""

import json

from art.defences.trainer import AdversarialTrainerFBFPyTorch

from art_sensreg import JacobianPenalty
from art_sensreg.adversaries import PGD
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.defences import DEFENCES, from_penalties, from_trainer
from tests.benchmark.defences.from_art.training import accuracy, small_spec

SMALL = ["--train-size", "300", "--test-size", "40", "--epochs", "3", "--model", "mlp", "--attacks", "fgm", "--quiet"]


def test_trainers_of_art_that_need_one_hot_labels_can_be_used(tmp_path, monkeypatch):
    defence = from_trainer(
        "fbf", "FBF", "-", lambda model, spec, options: AdversarialTrainerFBFPyTorch(model, spec.eps)
    )
    monkeypatch.setitem(DEFENCES, "fbf", defence)
    assert main(["--defences", "none,fbf", "--out", str(tmp_path / "run"), *SMALL]) == 0
    runs = json.loads((tmp_path / "run" / "results.json").read_text())["runs"]
    assert [run["status"] for run in runs] == ["ok", "ok"]


def test_penalties_and_an_adversary_are_trained_together(digits):
    seen = []
    defence = from_penalties(
        "mine",
        "",
        "",
        lambda options: seen.append(options) or [JacobianPenalty(weight=options["weight"], estimator="projection")],
        {"weight": 0.01, "eps": None},
        adversary=lambda options: seen.append(options) or PGD(eps=options["eps"], max_iter=1),
    )
    options = {"weight": 0.1, "eps": 0.05}
    assert accuracy(small_spec(digits), defence.train(small_spec(digits), options).model) > 0.3
    assert seen == [options, options]
