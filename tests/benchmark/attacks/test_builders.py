"""Every attack runs on the trained classifier unchanged, and breaks an undefended one."""

import numpy as np
import pytest
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.config.threat_models import NORMS, perturbation_size
from art_sensreg.models import build_model
from tests.support.fixed_weights import fixed

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
@pytest.mark.parametrize("name", ["cnn-small", pytest.param("resnet-small", marks=pytest.mark.slow)])
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
    n = {"hopskipjump": 10, "carlini-l2": 10}.get(attack, 50)  # these two are slow
    x, y = digits.x_test[:n], digits.y_test[:n]
    strength = {
        **settings_of(digits), "max_iter": 40, "binary_search_steps": 5, "max_eval": 200, "queries": 100, "nb_iter": 20
    }  # fmt: skip
    x_adv = ATTACKS[attack].build(classifier, NORMS[norm], eps, strength).generate(x, y=np.eye(10)[y])
    within = perturbation_size(x, x_adv, norm) <= eps * (1 + 1e-5)
    robust = ~(within & (classifier.predict(x_adv).argmax(1) != y))
    assert robust.mean() <= most
