"""Early stopping and the best weights."""

import pytest
import torch
from torch import nn

from art_sensreg.training import Callback, ValidationAttack
from art_sensreg.training.stopping import EarlyStopping
from tests.conftest import same_weights, weights_of
from tests.training.helpers import fit_digits


def test_early_stopping_and_the_best_weights(make_classifier, digits):
    class Spoil(Callback):
        """From the third epoch on the weights are random: the second is the best."""

        def on_epoch(self, state):
            best.append(weights_of(classifier)) if state.epoch == 2 else None

        def on_step(self, state):
            if state.epoch > 2:
                for parameter in state.model.parameters():
                    nn.init.normal_(parameter)

    best = []
    classifier = make_classifier()
    config = {"validation": True, "patience": 3, "restore_best": True, "callbacks": [Spoil()]}
    trainer = fit_digits(classifier, digits, n=800, epochs=30, **config)
    assert len(trainer.history) == 5
    assert same_weights(weights_of(classifier), best[0])


def test_what_is_monitored_must_be_there(make_classifier, digits):
    with pytest.raises(ValueError, match=r"`monitor` is 'val_accuracy' and `validation_data` is None"):
        fit_digits(make_classifier(), digits, patience=1)
    with pytest.raises(ValueError, match=r"`monitor` is 'val_robust_accuracy' and `validation_attack` is None"):
        fit_digits(make_classifier(), digits, patience=1, validation=True, monitor="val_robust_accuracy")
    with pytest.raises(ValueError, match=r"`validation_attack` is given and `validation_data` is None"):
        fit_digits(make_classifier(), digits, validation_attack=ValidationAttack(eps=0.1))
    assert len(fit_digits(make_classifier(), digits, patience=1, monitor="loss").history) == 2


def test_the_state_of_early_stopping_survives_a_checkpoint():
    first, second = EarlyStopping("val_loss", 2, restore_best=True), EarlyStopping("val_loss", 2, restore_best=True)
    model = nn.Linear(1, 1)
    assert [first.stops_after({"val_loss": value}, model) for value in (1.0, 0.5, 0.7)] == [False, False, False]
    second.load_state_dict(first.state_dict())
    assert second.stops_after({"val_loss": 0.6}, nn.Linear(1, 1))
    assert torch.equal(second.weights["weight"], model.weight)
