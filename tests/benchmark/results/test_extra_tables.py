"""The tables that not every run has."""

from art_sensreg.auditing import AuditReport, Check
from art_sensreg.benchmark.config.threat_models import Threat
from art_sensreg.benchmark.results.entries import (
    AttackRecord,
    CertifiedRecord,
    CurvePoint,
    ExplanationRecord,
    NotCounted,
    QueryCounts,
    UnionCase,
)
from art_sensreg.benchmark.results.extra_tables import audit_details, extra_tables
from art_sensreg.benchmark.results.reading import audit_record
from tests.support.results import results, run_record


def tables(*runs, **changes):
    return {heading.split(":")[0]: table for heading, table in extra_tables(results(*runs, **changes))}


def test_what_was_not_measured_has_no_table():
    assert tables(run_record(), run_record(defence="sr", queries=NotCounted(), certified=())) == {}


def test_both_ways_of_attacking_are_compared_on_the_same_images():
    def attack(name, view, share, n):
        return AttackRecord(
            attack=name, norm="linf", eps=0.1, view=view, robust_accuracy=share, n=n, mask="masks/a.npz"
        )

    attacks = (
        attack("fgm", "default", 0.9, 5), attack("fgm", "adaptive", 0.4, 5),
        attack("pgd", "default", 0.1, 2), attack("pgd", "adaptive", 0.1, 2),  # fewer images: not compared
    )  # fmt: skip
    (table,) = tables(run_record(attacks=attacks)).values()
    assert table.rows == [["none", "linf 0.1", "90.0", "40.0", "50.0"]]


def test_the_union_has_a_column_for_each_group_of_sizes():
    union = (UnionCase(eps={"linf": 0.1, "l2": 0.5}, robust_accuracy=0.5, ci_low=0.3, ci_high=0.7, n=10),)
    threats = (Threat("linf", (0.1,)), Threat("l2", (0.5,)))
    (table,) = tables(run_record(union=union), threats=threats).values()
    assert table.header == ["defence", "linf 0.1, l2 0.5"]
    assert table.rows[0][1].startswith("50.0 [")


def test_certificates_queries_draws_and_explanations():
    run = run_record(
        certified=(CertifiedRecord(norm="l2", eps=0.5, accuracy=0.25, ci_low=0.1, ci_high=0.5, n=20),),
        queries=QueryCounts(
            attack="square", norm="linf", eps=0.1, n=10, steps=100, mean=50.0, robust_accuracy=0.5,
            undefended_mean=20.0, undefended_robust_accuracy=0.1,
        ),
        eot_curve=tuple(
            CurvePoint(norm="linf", eps=0.1, samples=n, robust_accuracy=1 / n, ci_low=0.0, ci_high=1.0, n=10)
            for n in (1, 4)
        ),
        explanations=(
            ExplanationRecord(
                metric="gini", saliency="input_gradient", value=0.5, ci_low=0.4, ci_high=0.6, n=3, better="higher"
            ),
        ),
    )  # fmt: skip
    found = tables(run)
    assert found["Certified accuracy"].rows[0][1:] == ["l2 0.5", "25.0 [11.2, 46.9]", "20"]
    assert found["Queries of a score-based attack"].rows[0][2:] == ["20", "50", "10.0", "50.0"]
    assert [entry.split(" ")[0] for entry in found["Random models"].rows[0][2:]] == ["100.0", "25.0"]
    explained = found["How readable explanations are"]
    assert explained.header[1] == "gini (input gradient) ↑"
    assert explained.rows[0][1] == "0.5 ± 0.1"


def test_scores_of_explanations_are_summarised_over_seeds():
    def scored(defence, seed, value, better="higher"):
        score = ExplanationRecord(
            metric="gini", saliency="gradient", value=value, ci_low=None, ci_high=None, n=3, better=better
        )
        return run_record(defence=defence, seed=seed, explanations=(score,))

    heading = "How readable explanations are, by defence: mean ± standard deviation of the seeds"
    runs = [scored("none", 0, 0.2), scored("sr", 0, 0.5), scored("sr", 1, 0.7)]
    table = dict(extra_tables(results(*runs)))[heading]
    assert table.header == ["score", "better", "none (1)", "sr (2)"]
    assert table.rows == [["gini (gradient)", "higher", "0.2", "0.6 ± 0.14"]]
    assert heading not in dict(extra_tables(results(*runs[:2])))  # of one seed each there is no spread to show


def test_an_audit_is_shown_check_by_check():
    failed = Check(name="eval_mode", status="FAIL", value=1.0, threshold=0.0, meaning="Call eval().")
    run = run_record(audit=audit_record(AuditReport(checks=(failed,), settings={"eps": 0.1})))
    assert tables(run)["Audit"].rows == [["none", "do not trust: eval_mode"]]
    ((heading, table, advice),) = audit_details(results(run))
    assert heading == "Audit of none: do not trust: eval_mode"
    assert table.rows[0][0] == "eval_mode"
    assert "Call eval()." in advice[0]
