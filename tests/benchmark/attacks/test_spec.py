"""What the suite knows of an attack: where it is not defined."""

from art_sensreg.benchmark.attacks import ATTACKS, AttackSpec


def test_the_reason_why_an_attack_cannot_run():
    assert ATTACKS["square"].refusal("l1", (1, 8, 8)) == "is not defined in l1"
    assert "square images; these are 8 x 9" in ATTACKS["square"].refusal("l2", (1, 8, 9))
    assert ATTACKS["square"].refusal("l2", (1, 8, 8)) is None
    assert AttackSpec("mine", "", "", lambda *given: None).refusal("l1", (1, 8, 9)) is None
