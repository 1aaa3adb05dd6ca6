"""Scores on validation data, clean and under attack."""

import pytest
import torch

from art_sensreg.objectives import Objective
from art_sensreg.training import ValidationAttack
from art_sensreg.training.metrics import correct
from tests.training.helpers import fit_digits


def test_validation_under_attack_is_the_attacks_own_success(make_classifier, digits):
    attack = ValidationAttack(eps=0.1, max_iter=5)
    trainer = fit_digits(make_classifier(), digits, n=800, epochs=6, validation=True, validation_attack=attack)
    record = trainer.history[-1]
    assert 0 < record["val_robust_accuracy"] < record["val_accuracy"] - 0.05
    model, objective = trainer.classifier.model, Objective(clip_values=(torch.tensor(0.0), torch.tensor(1.0)))
    x, y = torch.from_numpy(digits.x_test[:100]), torch.from_numpy(digits.y_test[:100])
    perturbed = attack(model, objective, x, y, torch.Generator().manual_seed(0))
    assert (perturbed - x).abs().max() <= 0.1 + 1e-6
    assert perturbed.min() >= 0
    assert perturbed.max() <= 1
    found = (correct(model(x), y) & correct(model(perturbed), y)).float().mean()
    assert found == pytest.approx(record["val_robust_accuracy"], abs=0.05)


def test_validation_attacks_in_l2_stay_inside(make_classifier, digits):
    model, objective = make_classifier().model, Objective()
    x, y = torch.from_numpy(digits.x_test[:20]), torch.from_numpy(digits.y_test[:20])
    attack = ValidationAttack(eps=0.7, norm="l2", max_iter=20)
    size = (attack(model, objective, x, y, torch.Generator().manual_seed(0)) - x).flatten(1).norm(dim=1)
    assert size.max() <= 0.7 + 1e-5
    assert size.median() > 0.6
