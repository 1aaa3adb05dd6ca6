"""The audit of a trained defence uses what its run has beside it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.engine.audit import audit_target, audited_threat, companions_of, penalties_of
from art_sensreg.benchmark.engine.plan import plan_training


@pytest.fixture(scope="module")
def plan():
    return plan_training(SuiteRequest(defences=("none", "sr+jr"), train_size=100, test_size=20))


def targets(*names):
    return {name: SimpleNamespace(model=f"model of {name}") for name in names}


def test_the_middle_size_of_the_first_norm_is_audited(plan):
    threats = (Threat("l2", (0.1, 0.2, 0.3)), Threat("linf", (0.4,)))
    assert audited_threat(replace(plan.settings, threats=threats)) == ("l2", 0.2)


def test_twin_surrogates_and_penalties_come_from_the_run(plan):
    found = companions_of(plan.settings, "sr+jr", targets("art-fbf", "none", "sr+jr", "art-madry", "art-adversarial"))
    assert found.twin == "model of none"
    assert found.surrogates == ("model of art-madry", "model of art-fbf")
    assert [type(penalty) for penalty in found.penalties] == [SensitivityPenalty, JacobianPenalty]


def test_a_defence_is_no_surrogate_of_itself_and_the_undefended_model_its_own_twin(plan):
    trained = {**targets("none", "art-madry"), "art-fbf": None}
    assert companions_of(plan.settings, "art-madry", trained).surrogates == ()
    assert companions_of(plan.settings, "none", trained).twin == "model of none"
    assert companions_of(plan.settings, "sr+jr", targets("sr+jr")).twin is None
    assert penalties_of(plan.settings, "none") == []


def test_a_defence_that_was_not_trained_is_refused(plan):
    with pytest.raises(ValueError, match="`name` is 'sr', which has not been trained; expected one of none"):
        audit_target(plan.settings, plan.dataset, "sr", targets("none"), seed=0)
