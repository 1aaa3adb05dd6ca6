"""How claims are judged by what a run has measured."""

import numpy as np
import pytest

from art_sensreg.benchmark.defences.claims import Claim, robust_accuracy
from art_sensreg.benchmark.engine.claims import Measured, judged
from art_sensreg.benchmark.results.entries import AttackRecord, CertifiedRecord, NotCounted, QueryCounts, WorstCase
from art_sensreg.benchmark.results.masks import mask_name, worst_case, write_mask
from art_sensreg.benchmark.results.records import RunRecord

CERTIFIED = Claim(metric="certified_accuracy", threat="any")
QUERIES = Claim(metric="attack_queries", threat="scores")
UNDEFENDED = {0.1: 0.5, 0.2: 0.0}


def cases(shares, n=200):
    return tuple(
        WorstCase(norm="linf", eps=eps, robust_accuracy=share, ci_low=0.0, ci_high=1.0, n=n)
        for eps, share in shares.items()
    )


def run_of(**entries):
    return RunRecord(defence="x", dataset="d", seed=0, **entries)


def status(claim, run, rival=None, chance=0.1):
    return judged(claim, Measured(run=run, rival="none", rival_cases=rival, chance=chance)).status


def robust(shares, rival=UNDEFENDED, n=200, **entries):
    rival = None if rival is None else cases(rival, n)
    return status(robust_accuracy(), run_of(worst_case=cases(shares, n), **entries), rival)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({0.1: 0.70, 0.2: 0.0}, "met"),
        ({0.1: 0.55, 0.2: 0.0}, "not met"),
        ({0.1: 0.50, 0.2: 0.1}, "met"),  # at one size
        ({0.1: 0.50, 0.2: 0.005}, "not met"),
        ({0.1: 0.30}, "not met"),
        ({0.3: 0.70}, "not measured"),  # no size in common
    ],
)
def test_robust_accuracy_must_be_clearly_above_the_undefended(shares, expected):
    assert robust(shares) == expected


def test_what_a_few_images_show_is_not_clear():
    assert robust({0.1: 0.99}, {0.1: 0.75}, n=4) == "not met"


def test_a_constant_prediction_is_no_defence():
    assert robust({0.2: 0.12}, clean_accuracy=0.12) == "not met"
    assert robust({0.2: 0.12}, clean_accuracy=0.9) == "met"


def test_robust_accuracy_needs_its_rival_and_attacks_that_ran():
    assert robust({0.1: 0.7}, rival=None) == "not measured"
    failed = AttackRecord(attack="pgd", norm="linf", eps=0.1, status="error")
    assert robust({0.1: 0.9}, attacks=(failed,)) == "not measured"


def test_certified_accuracy_must_be_above_a_constant_prediction():
    def certified(low):
        return run_of(certified=(CertifiedRecord(norm="l2", eps=0.5, accuracy=0.3, ci_low=low, ci_high=0.5, n=50),))

    assert status(CERTIFIED, certified(0.2)) == "met"
    assert status(CERTIFIED, certified(0.08)) == "not met"
    assert status(CERTIFIED, certified(0.2), chance=0.25) == "not met"  # one class is a quarter of all
    assert status(CERTIFIED, run_of(certified=())) == "not measured"
    assert status(CERTIFIED, run_of()) == "not measured"


@pytest.mark.parametrize(("mean", "left", "expected"), [(160, 0.2, "met"), (120, 0.2, "not met"), (110, 0.6, "met")])
def test_queries_must_be_more_or_win_less(mean, left, expected):
    counts = QueryCounts(
        attack="square", norm="linf", eps=0.1, n=100, steps=100, mean=float(mean), robust_accuracy=left,
        undefended_mean=100.0, undefended_robust_accuracy=0.2,
    )  # fmt: skip
    assert status(QUERIES, run_of(queries=counts)) == expected


def test_queries_that_were_not_counted_are_not_measured():
    assert status(QUERIES, run_of()) == status(QUERIES, run_of(queries=NotCounted())) == "not measured"


def test_who_claims_nothing():
    found = judged(
        Claim(metric="none", threat="poisoned data"), Measured(run=run_of(), rival="none", rival_cases=None, chance=0.1)
    )
    assert (found.metric, found.threat, found.status) == ("none", "poisoned data", "none made")


def test_defences_are_compared_on_the_same_images(tmp_path):
    (tmp_path / "masks").mkdir()
    name = mask_name("none")
    write_mask(tmp_path, name, np.array([True] * 10 + [False] * 30), np.ones(40, dtype=bool))
    run = run_of(attacks=(AttackRecord(attack="pgd", norm="linf", eps=0.1, mask=name, robust_accuracy=0.25, n=40),))
    assert worst_case(tmp_path, run, ("linf", 0.1), 40).robust_accuracy == 0.25
    assert worst_case(tmp_path, run, ("linf", 0.1), 20).robust_accuracy == 0.5
    assert worst_case(tmp_path, run, ("linf", 0.2), 20) is None
