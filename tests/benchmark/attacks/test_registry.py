"""All attacks run on the trained classifier unchanged, and break an undefended one."""

from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.benchmark.attacks import ATTACKS, default_attacks, ordered, register_attack, registry
from art_sensreg.benchmark.config.settings import BUDGETS
from art_sensreg.benchmark.config.threat_models import NORMS, perturbation_size
from art_sensreg.models import build_model
from tests.fixed_weights import fixed

STRENGTH = {
    "max_iter": 10, "restarts": 1, "binary_search_steps": 2, "max_eval": 50, "queries": 20,
    "nb_iter": 5, "nb_queries": 10, "nb_restarts": 1, "eot_iter": 1, "seed": 0,
}  # fmt: skip
DEFINED = [(name, norm) for name, attack in ATTACKS.items() for norm in attack.norms]


def classifier_of(model):
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, **settings)


def settings_of(digits, *surrogates):
    guides = (digits.x_train[:50], digits.y_train[:50])
    return {**STRENGTH, "guides": guides, "surrogates": list(surrogates)}


@pytest.mark.parametrize(("attack", "norm"), DEFINED)
@pytest.mark.parametrize("name", ["cnn-small", "resnet-small"])
def test_all_attacks_run_unchanged(digits, name, attack, norm):
    if name == "resnet-small" and not (ATTACKS[attack].art or norm == "linf"):
        pytest.skip("the attack's own tests have other models")
    model = fixed("cnn-smoothed") if name == "cnn-small" else build_model(name, digits.input_shape, 10)
    classifier, x = classifier_of(model), digits.x_test[:4]
    y = np.eye(10, dtype=np.float32)[classifier.predict(x).argmax(axis=1)]
    before = x.copy()
    settings = settings_of(digits, classifier_of(fixed("cnn")))
    generator = ATTACKS[attack].build(classifier, NORMS[norm], 0.3, settings)
    x_adv = generator.generate(x, y=y)
    assert x_adv.shape == x.shape
    assert np.isfinite(x_adv).all()
    assert np.array_equal(x, before)
    if not ATTACKS[attack].minimal_norm and attack != "art-autoattack":  # ART's AutoAttack returns DeepFool's excess
        assert perturbation_size(x, x_adv, norm).max() <= 0.3 + 1e-5
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


@pytest.mark.parametrize(
    ("attack", "norm", "eps", "most"),
    [
        ("fgm", "linf", 0.3, 0.2),
        ("pgd", "linf", 0.3, 0.02),
        ("apgd-ce", "linf", 0.3, 0.02),
        ("apgd-dlr", "linf", 0.3, 0.02),
        ("square", "linf", 0.3, 0.2),
        ("art-autoattack", "linf", 0.3, 0.02),
        ("autoattack", "linf", 0.3, 0.0),
        ("apgd-t", "linf", 0.3, 0.0),
        ("fab-t", "linf", 0.3, 0.1),
        ("hidden-away", "linf", 0.3, 0.02),
        ("hidden-towards", "linf", 0.3, 0.1),
        ("far-starts", "linf", 0.3, 0.02),
        ("scaled-logits", "linf", 0.3, 0.02),
        ("targeted-margin", "linf", 0.3, 0.02),
        ("autoattack", "l1", 4.0, 0.02),
        ("pgd", "l2", 2.0, 0.02),
        ("deepfool", "l2", 2.0, 0.02),
        ("carlini-l2", "l2", 2.0, 0.1),
        ("hopskipjump", "l2", 2.0, 0.35),
    ],
)
def test_each_attack_breaks_an_undefended_model(digits, attack, norm, eps, most):
    classifier = classifier_of(fixed("cnn"))
    n = 10 if attack == "hopskipjump" else 50
    x, y = digits.x_test[:n], digits.y_test[:n]
    strength = {
        **settings_of(digits), "max_iter": 40, "binary_search_steps": 5, "max_eval": 200, "queries": 100, "nb_iter": 20
    }  # fmt: skip
    x_adv = ATTACKS[attack].build(classifier, NORMS[norm], eps, strength).generate(x, y=np.eye(10)[y])
    within = perturbation_size(x, x_adv, norm) <= eps * (1 + 1e-5)
    robust = ~(within & (classifier.predict(x_adv).argmax(1) != y))
    assert robust.mean() <= most


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


def test_with_two_views_arts_gradient_attacks_come_first():
    names = ordered(["square", "apgd-t", "autoattack", "deepfool", "fgm"], both_views=True)
    assert names == ["fgm", "deepfool", "square", "apgd-t", "autoattack"]


def test_weights_do_not_require_grad_while_a_model_is_attacked(tmp_path, monkeypatch):
    from art_sensreg.benchmark.cli.suite import main

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
