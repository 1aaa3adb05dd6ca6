"""Records of a run: frozen, and changed by making others."""

from dataclasses import FrozenInstanceError

import pytest

from art_sensreg.benchmark.results.entries import AttackRecord
from tests.support.results import results, run_record


def attack(name, eps=0.1, **entries):
    return AttackRecord(attack=name, norm="linf", eps=eps, **entries)


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        run_record().status = "error"


def test_an_attack_takes_the_place_of_the_former_one():
    run = run_record(attacks=(attack("fgm"), attack("pgd", n=1), attack("pgd", view="adaptive")))
    changed = run.with_attacks([attack("pgd", n=2), attack("pgd", 0.2)])
    assert [(one.key, one.n) for one in changed.attacks] == [
        (("fgm", "linf", 0.1, "default"), 0),
        (("pgd", "linf", 0.1, "adaptive"), 0),
        (("pgd", "linf", 0.1, "default"), 2),
        (("pgd", "linf", 0.2, "default"), 0),
    ]
    assert changed.attack(("pgd", "linf", 0.1, "default")).n == 2
    assert changed.attack(("square", "linf", 0.1, "default")) is None
    assert len(run.attacks) == 3


def test_failures_are_added_up():
    run = run_record().failed("pgd", RuntimeError("one")).failed("audit", ValueError("two"))
    assert (run.status, run.reason) == ("error", "pgd: RuntimeError: one; audit: ValueError: two")


def test_a_run_is_found_by_defence_and_seed():
    first, second = run_record(), run_record(seed=1)
    found = results(first).with_run(second)
    assert found.run("none", 1) is second
    assert found.run("sr", 0) is None
    assert found.with_run(run_record(clean_accuracy=0.1)).runs[0].clean_accuracy == 0.1
