"""The former place of what makes defences of plugins."""

from art_sensreg.benchmark import defences, rows


def test_plugins_may_import_from_the_former_place():
    assert rows.from_penalties is defences.from_penalties
    assert rows.from_trainer is defences.from_trainer
