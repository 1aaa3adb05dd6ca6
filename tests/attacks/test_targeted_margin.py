import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks import (
    TargetedMarginAttack,
)
from art_sensreg.attacks.base.other_classes import likely_classes
from tests.attacks.trained import (
    points,
    trained,
    victim_of,
    wrap,
)


def test_targets_are_the_most_likely_other_classes():
    classifier, (x, y) = wrap(trained()), points(10)
    attack = TargetedMarginAttack(classifier, nb_targets=3, nb_restarts=2)
    assert attack.attempts == 6
    logits = classifier.predict(x)
    order = np.argsort(-np.where(np.eye(10, dtype=bool)[y], -np.inf, logits), axis=1)
    assert np.array_equal(likely_classes(classifier.model, torch.from_numpy(x), torch.from_numpy(y)), order[:, :9])
    for restart, number in enumerate((0, 0, 1, 1, 2, 2)):
        loss = attack.get_loss_fn(victim_of(classifier, x, y, restart=restart))(torch.from_numpy(x))[0]
        rows = np.arange(10)
        assert np.allclose(loss.detach(), logits[rows, order[:, number]] - logits[rows, y], atol=1e-5)


def test_number_of_targets():
    def classifier(classes):
        return SensRegClassifier(nn.Linear(3, classes), nn.CrossEntropyLoss(), (3,), classes, device_type="cpu")

    assert TargetedMarginAttack(classifier(100)).attempts == 9
    assert TargetedMarginAttack(classifier(4)).attempts == 3
    assert TargetedMarginAttack(classifier(4), nb_targets=3).attempts == 3
    with pytest.raises(ValueError, match="`nb_targets` is 4; expected at most 3, the number of other classes"):
        TargetedMarginAttack(classifier(4), nb_targets=4)


def test_parameters_can_be_changed_as_in_art():
    attack = TargetedMarginAttack(wrap(trained()))
    attack.set_params(nb_targets=2, eps=0.2)
    assert (attack.attempts, attack.eps) == (2, 0.2)
    with pytest.raises(ValueError, match="`nb_targets` is 20"):
        attack.set_params(nb_targets=20)
