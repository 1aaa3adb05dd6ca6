"""Claims of the registry, how they are judged, and on the digits whether each is what the run shows."""

import json
import re
from importlib import import_module
from inspect import isclass

import numpy as np
import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.defences.claims import Claim, judged, robust_accuracy
from art_sensreg.benchmark.defences.from_art import LEFT_OUT
from art_sensreg.benchmark.defences.registry import DEFENCES

CERTIFIED = Claim(metric="certified_accuracy", threat="any")
QUERIES = Claim(metric="attack_queries", threat="scores")


def case(share, n=200, eps=0.1):
    return {"norm": "linf", "eps": eps, "robust_accuracy": share, "n": n}


def status(claim, run, twin=None):
    return judged(claim, run, twin, chance=0.1)["status"]


def test_robust_accuracy_must_be_clearly_above_the_undefended():
    twin = {"defence": "none", "worst_case": [case(0.50), case(0.0, eps=0.2)]}
    assert status(robust_accuracy(), {"worst_case": [case(0.70), case(0.0, eps=0.2)]}, twin) == "met"
    assert status(robust_accuracy(), {"worst_case": [case(0.55), case(0.0, eps=0.2)]}, twin) == "not met"
    assert status(robust_accuracy(), {"worst_case": [case(0.50), case(0.1, eps=0.2)]}, twin) == "met"  # at one size
    assert status(robust_accuracy(), {"worst_case": [case(0.50), case(0.005, eps=0.2)]}, twin) == "not met"
    assert status(robust_accuracy(), {"worst_case": [case(0.30)]}, twin) == "not met"
    assert (
        status(robust_accuracy(), {"worst_case": [case(0.99, n=4)]}, {**twin, "worst_case": [case(0.75, n=4)]})
        == "not met"
    )
    constant = {"worst_case": [case(0.12, eps=0.2)], "clean_accuracy": 0.12}  # robust, and of no use
    assert status(robust_accuracy(), constant, twin) == "not met"
    assert status(robust_accuracy(), {**constant, "clean_accuracy": 0.9}, twin) == "met"
    assert status(robust_accuracy(), {"worst_case": [case(0.7)]}) == "not measured"
    assert status(robust_accuracy(), {"worst_case": [case(0.7, eps=0.3)]}, twin) == "not measured"
    failed = {"worst_case": [case(0.9)], "attacks": [{"attack": "pgd", "status": "error"}]}
    assert status(robust_accuracy(), failed, twin) == "not measured"


def test_certified_accuracy_must_be_above_a_constant_prediction():
    def certified(low):
        return {"certified": [{"norm": "l2", "eps": 0.5, "accuracy": 0.3, "ci_low": low, "ci_high": 0.5, "n": 50}]}

    assert status(CERTIFIED, certified(0.2)) == "met"
    assert status(CERTIFIED, certified(0.08)) == "not met"
    assert judged(CERTIFIED, certified(0.2), None, chance=0.25)["status"] == "not met"  # one class is a quarter of all
    assert status(CERTIFIED, {"certified": []}) == "not measured"
    assert status(CERTIFIED, {}) == "not measured"


def test_queries_must_be_more_or_win_less():
    def queries(mean, left):
        counts = {"mean": mean, "undefended_mean": 100.0, "robust_accuracy": left, "undefended_robust_accuracy": 0.2}
        return {"queries": {"attack": "square", "norm": "linf", "eps": 0.1, "n": 100, **counts}}

    assert status(QUERIES, queries(160.0, 0.2)) == "met"
    assert status(QUERIES, queries(120.0, 0.2)) == "not met"
    assert status(QUERIES, queries(110.0, 0.6)) == "met"
    assert status(QUERIES, {}) == "not measured"


def test_who_claims_nothing():
    none = Claim(metric="none", threat="poisoned data")
    assert judged(none, {}, None, 0.1) == {
        "metric": "none",
        "threat": "poisoned data",
        "status": "none made",
        "text": "nothing about evasion",
    }
    with pytest.raises(ValueError, match="`metric` is 'accuracy'"):
        Claim(metric="accuracy", threat="")


def test_every_entry_states_threat_metric_paper_and_repair():
    silent = {name for name, defence in DEFENCES.items() if defence.claim.metric == "none"}
    assert silent == {"none", "quantise", "art-dp-instahide", "art-reverse-sigmoid"}
    for name, defence in DEFENCES.items():
        assert defence.claim.threat
        assert defence.paper
        assert bool(defence.repaired) == name.endswith("-fixed")
        assert (defence.claim.metric == "certified_accuracy") == (defence.certificate is not None)
        assert (defence.claim.metric == "attack_queries") <= (defence.postprocessing is not None)
        if name.endswith("-fixed") and name != "art-fbf-fixed":
            assert name.removesuffix("-fixed") in DEFENCES  # the shipped one stands beside it


PARTS_OF_ART = (
    "trainer", "preprocessor", "postprocessor", "transformer.evasion", "transformer.poisoning", "detector.evasion",
    "detector.poison",
)  # fmt: skip
# Parts of defences, and what evaluates them.
NO_DEFENCES = {
    "Trainer", "Preprocessor", "Postprocessor", "EvasionDetector", "PoisonFilteringDefence", "GroundTruthEvaluator",
    "ClusteringAnalyzer", "ZonoDenseLayer", "ZonoBounds", "ZonoConv", "ZonoReLU", "IntervalDense", "IntervalConv2D",
    "IntervalReLU", "IntervalFlatten", "IntervalBounds", "RandomizedSmoothingMixin", "NumpyRandomizedSmoothing",
    "ObjectSeekerMixin",
}  # fmt: skip
ANOTHER_NAME = {"PytorchDeepZ": "DeepZ", "IBPClassifier": "AdversarialTrainerCertifiedIBP"}


def test_every_pytorch_defence_of_art_has_its_row_or_a_reason():
    modules = [f"art.defences.{part}" for part in PARTS_OF_ART]
    modules += ["art.estimators.certification", "art.estimators.certification.randomized_smoothing"]
    names = {name for module in modules for name, kind in vars(import_module(module)).items() if isclass(kind)}
    names = {name.replace("PyTorch", "") for name in names if "TensorFlow" not in name} - NO_DEFENCES
    assert len(names) > 40
    rows = " ".join(f"{defence.summary} {name}" for name, defence in DEFENCES.items())
    reasons = set(", ".join(LEFT_OUT).split(", "))
    for name in names:
        word = ANOTHER_NAME.get(name, name).removesuffix("Pytorch").removesuffix("Trainer")
        assert (re.search(rf"\b{word}", rows) is None) == (word in reasons), word
    assert reasons <= names


def expected_status(name):
    claim = DEFENCES[name].claim
    return "none made" if claim.metric == "none" else "not met" if claim.unmet else "met"


def digits_runs(root):
    path = root / "docs" / "results" / "digits-all-defences.json"
    return {run["defence"]: run for run in json.loads(path.read_text())["runs"]}


@pytest.mark.parametrize("name", DEFENCES)
def test_the_claim_of_each_on_the_digits(name, pytestconfig):
    """What the registry expects is what the stored run of all defences shows; the table marks what is not met."""
    run = digits_runs(pytestconfig.rootpath).get(name)
    assert run is not None
    if run["clean_accuracy"] is None:
        assert run["status"] == "not_applicable"
        assert run["reason"]
        return
    found = run["claim"]["status"]
    assert run["claim"]["metric"] == DEFENCES[name].claim.metric
    assert found == expected_status(name)
    page = (pytestconfig.rootpath / "docs" / "results" / "digits-all-defences.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    assert row.rstrip(" |").endswith("NOT MET") == (found == "not met")


def test_it_is_compared_on_the_same_images(tmp_path):
    from art_sensreg.benchmark.results.store import Records

    records = Records(tmp_path, {}, "cpu")
    robust = np.array([True] * 10 + [False] * 30)
    everywhere = np.ones(40, dtype=bool)
    row = {"attack": "pgd", "norm": "linf", "eps": 0.1, "mask": records.write_mask(("none",), robust, everywhere)}
    run = {"attacks": [row]}
    assert records.worst_case(run, "linf", 0.1, 40)["robust_accuracy"] == 0.25
    assert records.worst_case(run, "linf", 0.1, 20)["robust_accuracy"] == 0.5
    assert records.worst_case(run, "linf", 0.2, 20) is None


@pytest.mark.slow
def test_the_claims_from_scratch(tmp_path):
    # The targeted margin sees what distillation hides from attacks on cross-entropy.
    attacks = "pgd,apgd-ce,targeted-margin,square"
    arguments = ["--defences", "all", "--attacks", attacks, "--test-size", "150", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    for run in json.loads((tmp_path / "run" / "results.json").read_text())["runs"]:
        if run["clean_accuracy"] is not None:
            assert (run["defence"], run["claim"]["status"]) == (run["defence"], expected_status(run["defence"]))
