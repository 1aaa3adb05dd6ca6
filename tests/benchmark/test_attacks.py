"""All nine attacks run on the trained classifier unchanged, and break an undefended one."""

import numpy as np
import pytest

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.benchmark.attacks import ATTACKS, NORMS, perturbation_size

STRENGTH = {
    "max_iter": 10, "restarts": 1, "binary_search_steps": 2, "max_eval": 50, "queries": 20
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(digits):
    made = {}

    def get(make_classifier, name, penalties=()):
        key = (name, penalties)
        if key not in made:
            classifier = make_classifier(name, penalties=penalties)
            classifier.fit(digits.x_train, digits.y_train, nb_epochs=12, batch_size=64, seed=0)
            made[key] = classifier
        return made[key]

    return get


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["cnn-small", "resnet-small"])
def test_all_attacks_run_unchanged(make_classifier, digits, trained, name, attack, norm):
    classifier = trained(make_classifier, name, (SensitivityPenalty(sigma=0.2), JacobianPenalty()))
    x, y = digits.x_test[:4], np.eye(10, dtype=np.float32)[digits.y_test[:4]]
    before = x.copy()
    generator = ATTACKS[attack].build(classifier, NORMS[norm], 0.3, STRENGTH)
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
        ("pgd", "l2", 2.0, 0.02),
        ("deepfool", "l2", 2.0, 0.02),
        ("carlini-l2", "l2", 2.0, 0.1),
        ("hopskipjump", "l2", 2.0, 0.35),
    ],
)
def test_each_attack_breaks_an_undefended_model(make_classifier, digits, trained, attack, norm, eps, most):
    classifier = trained(make_classifier, "cnn-small")
    n = 10 if attack == "hopskipjump" else 50
    x, y = digits.x_test[:n], digits.y_test[:n]
    strength = {"max_iter": 40, "restarts": 1, "binary_search_steps": 5, "max_eval": 200, "queries": 100}
    x_adv = ATTACKS[attack].build(classifier, NORMS[norm], eps, strength).generate(x, y=np.eye(10)[y])
    within = perturbation_size(x, x_adv, norm) <= eps * (1 + 1e-5)
    robust = ~(within & (classifier.predict(x_adv).argmax(1) != y))
    assert robust.mean() <= most
