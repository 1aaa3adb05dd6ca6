"""The reference attack, and what further attacks find beyond it."""

from __future__ import annotations

import numpy as np
import pytest
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

from art_sensreg.attacks.base.norms import Ball
from art_sensreg.auditing.checks.linear_truth import linear_robust_accuracy
from art_sensreg.auditing.context import shared_attacks
from art_sensreg.auditing.context.inputs import FULL
from art_sensreg.auditing.context.shared_attacks import PgdSettings
from tests.auditing.models.honest import honest_model
from tests.auditing.reports import context_of


@pytest.fixture(scope="module")
def context(digits, tiny):
    return context_of(tiny, digits.x_test[:60], digits.y_test[:60])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.4), ("l1", 1.0)])
def test_on_a_linear_model_the_reference_attack_reaches_the_exact_worst_case(digits, norm, eps):
    classifier = honest_model("linear", digits)[0]
    layer = classifier.model[1]
    x, y = digits.x_test[:60], digits.y_test[:60]
    attacks = context_of(classifier, x, y, eps=eps, norm=norm, effort=FULL).attacks
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    exact = linear_robust_accuracy(weight, bias, x, y, Ball(norm, eps, 0.0, 1.0))
    assert 0.05 < exact < 0.95
    assert exact <= attacks.robust_accuracy <= exact + 0.02


def test_the_robust_accuracy_is_that_of_other_implementations(digits, plain):
    """No higher than ART's PGD with the same steps says, and no lower than the official AutoAttack."""
    pytest.importorskip("pyautoattack")
    from art_sensreg.attacks.autoattack.attack import OfficialAutoAttack

    x, y = digits.x_test[:100], digits.y_test[:100]
    found = context_of(plain, x, y, effort=FULL).attacks.robust_accuracy
    attack = ProjectedGradientDescent(plain, eps=0.1, eps_step=0.00625, max_iter=40, verbose=False)
    pgd = (plain.predict(attack.generate(x, np.eye(10)[y])).argmax(1) == y).mean()
    attack = OfficialAutoAttack(plain, eps=0.1, nb_iter=30, nb_queries=50)
    best = (plain.predict(attack.generate(x, y)).argmax(1) == y).mean()
    assert best - 0.01 <= found <= pgd + 0.03


def test_survivors_resist_the_reference_and_the_gain_counts_what_others_turn(context):
    attacks, inputs = context.attacks, context.inputs
    survivors = attacks.survivors
    assert set(survivors) <= set(context.model.correct_indices)
    assert attacks.robust_accuracy == len(survivors) / 60
    other = inputs.x[np.flatnonzero(inputs.y != inputs.y[survivors[0]])[:1]]

    def one_turned(indices):
        images = inputs.x[indices].copy()
        images[indices == survivors[0]] = other
        return images

    assert attacks.gain() == 0
    assert attacks.gain(lambda indices: inputs.x[indices]) == 0
    assert attacks.gain(one_turned, one_turned) == pytest.approx(1 / 60)


def test_each_attack_sees_what_the_ones_before_it_left(context):
    seen = []

    def watch(indices):
        seen.append(indices)
        return context.inputs.x[indices]

    indices = context.model.correct_indices
    huge = PgdSettings(("huge",), eps=1.0)
    left = context.attacks.resisting(indices, watch, huge, watch)
    assert seen[0].tolist() == indices.tolist()
    assert len(left) < len(indices)
    assert len(seen) == (2 if len(left) else 1)


def test_attacks_of_art_are_taken_too(context):
    attack = FastGradientMethod(context.inputs.classifier, eps=0.1)
    labels = np.eye(10)[context.inputs.y]
    correct = context.model.correct_indices
    broken = context.inputs.classifier.predict(attack.generate(context.inputs.x, labels)).argmax(1) != context.inputs.y
    left = context.attacks.resisting(correct, attack)
    assert left.tolist() == [index for index in correct if not broken[index]]


def test_a_large_set_of_images_is_attacked_in_batches(digits, tiny, monkeypatch):
    context = context_of(tiny, digits.x_test[:60], digits.y_test[:60])
    whole = context.attacks.pgd(np.arange(60), PgdSettings(("x",), start="none", max_iter=5))
    monkeypatch.setattr(shared_attacks, "_BATCH", 25)
    parts = context.attacks.pgd(np.arange(60), PgdSettings(("x",), start="none", max_iter=5))
    assert np.allclose(whole.perturbed, parts.perturbed, atol=1e-5)
    assert np.allclose(whole.losses, parts.losses, atol=1e-5)
    assert np.allclose(whole.margins, parts.margins, atol=1e-4)
