"""What is measured of a run, one record each: what identifies it, and what may stand in it."""

import numpy as np
import pytest

from art_sensreg.benchmark.results.entries import AttackRecord, CertifiedRecord, WorstCase, share_of
from art_sensreg.benchmark.results.schema import Unfit, record
from art_sensreg.benchmark.results.writing import plain
from art_sensreg.utils.stats import wilson_interval


def test_a_share_has_its_interval():
    found = share_of(np.array([True, True, False, True]))
    assert (found["robust_accuracy"], found["n"]) == (0.75, 4)
    assert (found["ci_low"], found["ci_high"]) == wilson_interval(3, 4)


def test_an_attack_is_identified_by_its_name_threat_and_view():
    attack = AttackRecord(attack="pgd", norm="l2", eps=0.5, view="adaptive")
    assert attack.key == ("pgd", "l2", 0.5, "adaptive")
    assert attack.threat == ("l2", 0.5)
    # Older files have no status: what has a mask did run.
    assert attack.status == "error"
    assert AttackRecord(attack="pgd", norm="l2", eps=0.5, mask="masks/pgd.npz").status == "ok"


def test_a_certified_share_is_a_robust_accuracy():
    certified = CertifiedRecord(norm="l2", eps=0.5, accuracy=0.4, ci_low=0.3, ci_high=0.5, n=100)
    assert (certified.robust_accuracy, certified.threat) == (0.4, ("l2", 0.5))


@pytest.mark.parametrize(
    ("name", "value"),
    [("norm", "l0.5"), ("eps", 0), ("robust_accuracy", 1.2), ("ci_low", "0.3"), ("n", 0), ("n", 2.5)],
)
def test_what_cannot_be_a_worst_case_is_refused(name, value):
    good = plain(WorstCase(norm="linf", eps=0.1, robust_accuracy=0.4, ci_low=0.3, ci_high=0.5, n=100))
    assert record(WorstCase)(good, "case").eps == 0.1
    with pytest.raises(Unfit, match=f"case.{name}"):
        record(WorstCase)({**good, name: value}, "case")


@pytest.mark.parametrize("mask", ["../secret.npz", "masks/../x.npz", "/masks/a.npz", "masks/a.npy"])
def test_masks_lie_in_their_folder(mask):
    good = plain(AttackRecord(attack="pgd", norm="linf", eps=0.1, mask="masks/a.npz"))
    assert record(AttackRecord)(good, "").mask == "masks/a.npz"
    with pytest.raises(Unfit, match="a file in masks/"):
        record(AttackRecord)({**good, "mask": mask}, "")
