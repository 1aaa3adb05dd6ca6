"""How entries of a file are checked when they are read."""

import pytest

from art_sensreg.benchmark.results.entries import AttackRecord
from art_sensreg.benchmark.results.records import RunRecord
from art_sensreg.benchmark.results.schema import COUNT, OPTION, SHARE, TEXT, Unfit, list_of, record, table_of

ATTACK = {"attack": "pgd", "norm": "linf", "eps": 0.1, "robust_accuracy": None, "n": 0, "seconds": 0.0, "mask": None}


def test_a_record_is_made_of_an_object():
    found = record(AttackRecord)({**ATTACK, "mood": "good"}, "it")
    assert found == AttackRecord(attack="pgd", norm="linf", eps=0.1, more={"mood": "good"})
    assert found.status == "error"  # an older file: it did not run


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (SHARE, 1.5, "place is 1.5; expected a share from 0 to 1"),
        (COUNT, True, "place is True; expected a whole number above 0"),
        (list_of(TEXT), ["a", 1], "place[1] is 1; expected text"),
        (list_of(TEXT, least=1), [], "place is list; expected a list with entries"),
        (table_of(TEXT, COUNT), {"a": 0}, "place.a is 0"),
        (OPTION, [1, [None, {}]], "place[1][1] is {}; expected text or a number"),
        (record(AttackRecord), [], "place is list; expected an object"),
        (record(AttackRecord), {**ATTACK, "eps": 0}, "place.eps is 0; expected a finite number above 0"),
        (record(AttackRecord), {"attack": "pgd"}, "place has no `norm`"),
        (record(RunRecord), {"defence": "x" * 200}, "..."),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(read, value, message):
    with pytest.raises(Unfit) as refused:
        read(value, "place")
    assert message in str(refused.value)
    assert len(str(refused.value)) < 200
