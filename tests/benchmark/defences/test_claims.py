"""Claims of the registry, and on the digits whether each is what the run shows."""

import json
import re
from importlib import import_module
from inspect import isclass

import pytest

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.from_art import LEFT_OUT
from art_sensreg.benchmark.defences.registry import DEFENCES


def test_an_unknown_metric_is_refused():
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


def test_every_pytorch_defence_of_art_is_included_or_has_a_reason():
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
    shown = row.rstrip(" |").rpartition("| ")[2]
    assert shown.startswith(("NOT ", "no better ")) == (found == "not met")


@pytest.mark.slow
def test_the_claims_from_scratch(tmp_path):
    # The targeted margin sees what distillation hides from attacks on cross-entropy.
    attacks = "pgd,apgd-ce,targeted-margin,square"
    arguments = ["--defences", "all", "--attacks", attacks, "--test-size", "150", "--quiet"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    for run in json.loads((tmp_path / "run" / "results.json").read_text())["runs"]:
        if run["clean_accuracy"] is not None:
            assert (run["defence"], run["claim"]["status"]) == (run["defence"], expected_status(run["defence"]))
