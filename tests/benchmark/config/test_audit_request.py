"""What is asked of the audit, and what that asks of the suite."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from art_sensreg.benchmark.cli.audit import make_audit_parser
from art_sensreg.benchmark.config.audit_request import AuditRequest
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.defences.registry import options_of
from art_sensreg.benchmark.engine.plan import plan_training

OUT = Path("nowhere")


@pytest.fixture(scope="module")
def stored():
    """Settings of a run that differ from every default."""
    request = SuiteRequest(defences=("sr",), model="mlp", activation="gelu", epochs=3, train_size=200)
    return replace(plan_training(request).settings, threats=(Threat("l2", (0.3, 0.6)),))


@pytest.mark.parametrize("given", [{}, {"model": "mlp"}, {"checkpoint": Path("a.safetensors"), "defence": "sr"}])
def test_either_a_file_or_a_defence_is_audited(given):
    with pytest.raises(ValueError, match="expected one of `checkpoint` and `defence`"):
        AuditRequest(**given)


def test_the_folder_is_named_by_what_is_audited():
    assert AuditRequest(defence="sr").folder == Path("results/audit-sr")
    assert AuditRequest(checkpoint=Path("runs/mine.safetensors")).folder == Path("results/audit-mine")
    assert AuditRequest(defence="sr", out=OUT).folder == OUT
    assert AuditRequest(model="nets/my_net.py:build").folder == Path("results/audit-my_net.py-build")


def test_the_command_line_and_python_callers_have_the_same_defaults():
    given = make_audit_parser().parse_args(["--defence", "sr"])
    parsed = {entry.name: getattr(given, entry.name) for entry in fields(AuditRequest)}
    assert AuditRequest(**{**parsed, "surrogates": tuple(parsed["surrogates"])}) == AuditRequest(defence="sr")


def test_without_a_run_the_suites_own_defaults_count():
    asked = AuditRequest(defence="sr").suite_request(["none", "sr"], OUT)
    assert asked == SuiteRequest(defences=("none", "sr"), out=OUT, resume=True)


def test_a_stored_run_counts_where_nothing_else_is_asked_for(stored):
    asked = AuditRequest(defence="sr", activation="silu").suite_request(["sr"], OUT, stored)
    assert (asked.model, asked.activation, asked.epochs, asked.train_size) == ("mlp", "silu", 3, 200)
    assert (asked.norms, asked.eps) == (("l2",), ((0.3, 0.6),))
    other = AuditRequest(defence="sr", norm="linf").suite_request(["sr"], OUT, stored)
    assert (other.norms, other.eps) == (("linf",), None)


def test_the_options_and_the_images_of_a_run_are_those_of_its_audit():
    """The noise of a random network, or the levels of a preprocessor, are not in the weights."""
    options = {"rse": {"first_std": 0.9}, "quantise": {"levels": 2}}
    request = SuiteRequest(defences=("rse", "quantise"), options=options, validation=True, epochs=1)
    run = plan_training(request).settings
    asked = AuditRequest(checkpoint=Path("quantise-seed0.safetensors")).suite_request(["quantise"], OUT, run)
    audited = plan_training(asked).settings
    assert options_of(audited, "quantise") == options_of(run, "quantise")
    assert audited.validation
    assert audited.data_crc32 == run.data_crc32
