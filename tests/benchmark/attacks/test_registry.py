"""The registry of attacks: order, default attacks, new ones, and what they are given."""

from dataclasses import replace

import pytest

from art_sensreg.benchmark.attacks import ATTACKS, default_attacks, ordered, register_attack, registry
from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.config.settings import BUDGETS


def test_every_attack_has_a_strength_at_each_budget():
    for name, attack in ATTACKS.items():
        assert attack.name == name
        assert attack.default_from in BUDGETS
        assert set(attack.settings) == set(BUDGETS)
        assert attack.norms
        assert attack.summary
        assert attack.paper


def test_larger_budgets_run_more_attacks_by_default():
    smoke, quick, full = map(default_attacks, BUDGETS)
    assert set(smoke) < set(quick) < set(full)
    assert full == tuple(ATTACKS)
    assert "autoattack" in smoke


def test_a_registered_attack_runs_last_or_where_it_is_put(monkeypatch):
    before = list(ATTACKS)
    for place, expected in ((None, [*before, "mine"]), ("fgm", ["mine", *before])):
        with monkeypatch.context() as patch:
            patch.setattr(registry, "ATTACKS", dict(ATTACKS))
            register_attack(replace(ATTACKS["pgd"], name="mine"), before=place)
            assert list(registry.ATTACKS) == expected
    with pytest.raises(ValueError, match="`before` is 'fgn'"):
        register_attack(replace(ATTACKS["pgd"], name="mine"), before="fgn")
    assert list(ATTACKS) == before


def test_with_two_ways_of_attacking_arts_gradient_attacks_come_first():
    names = ordered(["square", "apgd-t", "autoattack", "deepfool", "fgm"], both_views=True)
    assert names == ["fgm", "deepfool", "square", "apgd-t", "autoattack"]


def test_weights_do_not_require_grad_while_a_model_is_attacked(tmp_path, monkeypatch):
    seen = []

    def watched(classifier, norm, eps, settings):
        models = [classifier.model, *(surrogate.model for surrogate in settings["surrogates"])]
        seen.append(models)
        assert not any(weight.requires_grad for model in models for weight in model.parameters())
        return ATTACKS["fgm"].build(classifier, norm, eps, settings)

    monkeypatch.setitem(ATTACKS, "pgd", replace(ATTACKS["pgd"], build=watched))
    small = ["--train-size", "200", "--test-size", "20", "--epochs", "1", "--model", "mlp", "--quiet", "--jobs", "1"]
    chosen = ["--defences", "none,art-madry", "--attacks", "pgd", "--eps", "0.01"]
    assert main([*small, *chosen, "--out", str(tmp_path / "run")]) == 0
    assert [len(models) for models in seen] == [2, 2]
    assert all(weight.requires_grad for models in seen for model in models for weight in model.parameters())
