"""The result in sentences: who is best at a cost, and who is not told apart."""

from art_sensreg.benchmark.results.entries import AuditRecord
from art_sensreg.benchmark.results.page.verdict import verdict_of
from tests.support.results import case, results, run_record

BAD = AuditRecord(verdict="do not trust: transfer", checks=())
GOOD = AuditRecord(verdict="no failure detected", checks=())


def run(name, cost, first, second, **changes):
    return run_record(defence=name, step_cost=cost, worst_case=(case(first), case(second, 0.2)), **changes)


def test_the_best_of_each_cost_with_those_that_the_sampling_error_does_not_tell_from_it():
    found = verdict_of(results(
        run("none", 1.0, 0.5, 0.0), run("sr", 1.5, 0.7, 0.2), run("jr", 1.9, 0.7, 0.19), run("fire", 8.0, 0.8, 0.5),
        run("at+sr+jr", 6.0, 0.8, 0.3), run("n-fgsm", 3.0, 0.8, 0.1),
    ))  # fmt: skip
    assert found.size == ("linf", 0.2)
    assert [(best.row.defence, [row.defence for row in best.level]) for best in found.best] == [
        ("sr", ["jr"]), ("fire", [])  # at up to four times sr is still the best
    ]  # fmt: skip
    assert found.plain.defence == "none"


def test_what_failed_its_audit_is_not_the_best():
    plain = run("none", 1.0, 0.5, 0.0)
    found = verdict_of(results(plain, run("sr", 1.5, 0.7, 0.9, audit=BAD), run("jr", 1.5, 0.7, 0.3, audit=GOOD)))
    assert [best.row.defence for best in found.best] == ["jr"]
    assert [row.defence for row in found.distrusted] == [row.defence for row in found.above] == ["sr"]
    assert [row.defence for row in found.believed] == ["jr"]


def test_the_size_is_the_largest_at_which_something_is_above_none():
    plain, other = run("none", 1.0, 0.5, 0.0), run("sr", 1.5, 0.7, 0.0)
    assert verdict_of(results(plain, other)).size == ("linf", 0.1)
    assert verdict_of(results(plain)).best == ()


def test_without_a_cost_there_is_a_best_at_any_cost():
    found = verdict_of(results(run("none", None, 0.5, 0.0), run("sr", None, 0.7, 0.2)))
    assert [(best.cost, best.row.defence) for best in found.best] == [("At any cost", "sr")]
