"""The rows over seeds: means, gains over `none`, costs."""

import math

import pytest

from art_sensreg.benchmark.results.entries import AtSize, AttackRecord, AuditRecord, ClaimRecord, QueryCounts
from art_sensreg.benchmark.results.summary import claim_words, summary_rows
from tests.support.results import case, results, run_record


def rows(*runs, **changes):
    return {row.defence: row for row in summary_rows(results(*runs, **changes))}


def test_a_gain_is_over_none_on_the_same_seeds_and_images():
    runs = [
        run_record(seed=seed, worst_case=(case(plain), case(0.0, 0.2, n=50)))
        for seed, plain in ((0, 0.4), (1, 0.5), (2, 0.9))
    ]
    runs += [
        run_record(defence="sr", seed=seed, worst_case=(case(share), case(0.1, 0.2)))
        for seed, share in ((0, 0.6), (1, 0.8))
    ]
    found = rows(*runs, seeds=3)
    cell = found["sr"].cells["linf", 0.1]
    assert cell.gain == pytest.approx(0.7 - 0.45)
    assert cell.gain_error == pytest.approx(1.96 * math.sqrt((0.7 * 0.3 + 0.45 * 0.55) / 200), rel=1e-3)
    assert found["sr"].cells["linf", 0.2].gain is None  # of other images
    assert found["none"].cells["linf", 0.1].gain is None
    assert cell.spread == pytest.approx(0.2 / math.sqrt(2))


def test_seeds_with_fewer_images_wait_until_they_have_as_many():
    runs = [run_record(seed=seed, worst_case=(case(share, n=n),)) for seed, share, n in ((0, 0.5, 100), (1, 0.9, 800))]
    cell = rows(*runs, seeds=2)["none"].cells["linf", 0.1]
    assert (cell.shares, cell.n, cell.spread) == ((0.9,), 800, None)
    runs[0] = run_record(seed=0, worst_case=(case(0.5, n=800),))
    assert rows(*runs, seeds=2)["none"].cells["linf", 0.1].mean == pytest.approx(0.7)


def test_an_attack_of_fewer_images_is_named_unless_another_view_saw_all():
    def attack(n, view):
        return AttackRecord(attack="pgd", norm="linf", eps=0.1, view=view, robust_accuracy=0.5, n=n, mask="masks/a.npz")

    part = run_record(defence="sr", worst_case=(case(0.5),), attacks=(attack(50, "default"),))
    both = run_record(worst_case=(case(0.5),), attacks=(attack(50, "default"), attack(200, "adaptive")))
    found = rows(part, both)
    assert found["sr"].cells["linf", 0.1].partial == {"pgd": 50}
    assert found["none"].cells["linf", 0.1].partial == {}


def test_the_cost_is_the_median_over_seeds_with_the_quartiles_of_all_repeats():
    runs = [
        run_record(seed=seed, step_cost=cost, step_cost_repeats=repeats)
        for seed, cost, repeats in ((0, 2.0, (1.0, 2.0, 3.0)), (1, 2.2, (2.0, 2.0)))
    ]
    cost = rows(*runs)["none"].cost
    assert (cost.median, cost.low, cost.high) == pytest.approx((2.1, 2.0, 2.0))
    old = rows(run_record(step_cost=1.5))["none"].cost
    assert (old.median, old.low) == (1.5, None)
    assert rows(run_record())["none"].cost is None


def test_a_failed_audit_is_distrusted():
    bad = AuditRecord(verdict="do not trust: transfer", checks=())
    good = AuditRecord(verdict="no failure detected", checks=())
    found = rows(run_record(audit=bad), run_record(defence="sr", audit=good), run_record(defence="jr"))
    assert [row.distrusted for row in found.values()] == [True, False, False]


def test_what_was_not_trained_comes_last_with_its_reason():
    refused = run_record(defence="jr", status="not_applicable", reason="no norm", clean_accuracy=None)
    found = rows(refused, run_record(defence="sr"))
    assert [(name, row.reason, row.runs == ()) for name, row in found.items()] == [
        ("sr", "", False),
        ("jr", "not applicable: no norm", True),
    ]


def claim(status, *above, metric="robust_accuracy", over="none", text=""):
    sizes = tuple(AtSize(norm="linf", eps=eps) for eps in above)
    return ClaimRecord(metric=metric, threat="any", status=status, text=text, over=over, above=sizes)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ([claim("met", 0.1, 0.2)], "above none at 0.1, 0.2"),
        ([claim("met", 0.1, 0.2), claim("met", 0.2)], "above none at 0.2"),  # at every seed
        ([claim("met", 0.1), claim("not met")], "NOT above none"),
        ([claim("met", 0.1), claim("not measured")], "not measured"),
        ([claim("none made")], "no claim"),
        ([claim("met", 0.1, over="jr")], "above jr at 0.1"),
        ([claim("met", 0.1, metric="certified_accuracy", over="chance")], "certified above chance at 0.1"),
        ([claim("not met", metric="certified_accuracy", over="chance")], "NOT certified above chance"),
        ([claim("not met", text="no better unattacked than a constant prediction (9 %)")],
         "no better unattacked than a constant prediction (9 %)"),
        ([], "-"),
    ],
)  # fmt: skip
def test_words(claims, words):
    runs = [run_record(defence="sr", seed=seed, claim=found) for seed, found in enumerate(claims)]
    assert claim_words(runs, results(*runs)) == words


def test_an_older_file_is_judged_by_its_worst_cases():
    old = ClaimRecord(metric="robust_accuracy", threat="any", status="met", text="")
    plain = run_record(worst_case=(case(0.5), case(0.2, 0.2, n=50)))
    run = run_record(defence="sr", claim=old, worst_case=(case(0.9), case(0.9, 0.2)))
    assert claim_words([run], results(plain, run)) == "above none at 0.1"  # 0.2 was measured on other images
    assert claim_words([run], results(run)) == "above none at one size at least"


def test_queries_are_counted():
    counts = QueryCounts(
        attack="square", norm="linf", eps=0.1, n=10, steps=5, mean=30.0, robust_accuracy=0.5, undefended_mean=10.0,
        undefended_robust_accuracy=0.5,
    )  # fmt: skip
    run = run_record(defence="sr", claim=claim("met", metric="attack_queries"), queries=counts)
    assert claim_words([run], results(run)) == "3.0 times the queries of none"
