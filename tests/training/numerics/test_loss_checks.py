"""Losses that use hidden features are refused where other images go through the model too."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import PGD, TRADES
from art_sensreg.training import ValidationAttack
from tests.conftest import same_weights, weights_of
from tests.training.helpers import X, Y, by_hand, classifier_of, close, small_model


class CentreLoss(nn.Module):
    """Cross-entropy, and the distance of hidden features to the centres of their classes."""

    def __init__(self, model):
        super().__init__()
        self.centres, self.features = nn.Parameter(torch.ones(3, 8)), None
        model[1].register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.features = output

    def forward(self, logits, y):
        return F.cross_entropy(logits, y) + 0.1 * (self.features - self.centres[y]).pow(2).mean()


def with_centres(penalties=(), adversary=None, **settings):
    model = small_model()
    loss = CentreLoss(model)
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.3)
    config = TrainingConfig(seed=0, batch_size=8, nb_epochs=2, **settings)
    return SensRegTrainer(classifier_of(model, optimizer, loss), penalties, config, adversary), model, loss, optimizer


def test_a_loss_of_hidden_features_is_trained_as_by_hand():
    _, model, loss, optimizer = with_centres()
    by_hand(model, optimizer, lambda x, y: loss(model(x), y), epochs=2, batch_size=8)
    expected = [p.detach().clone() for p in [*model.parameters(), loss.centres]]
    trainer, model, loss, _ = with_centres(validation_attack=ValidationAttack(eps=0.1))
    trainer.fit(X, Y, (X[:10], Y[:10]), verbose=False)
    assert close([*model.parameters(), loss.centres], expected)
    with torch.no_grad():
        x, y = torch.from_numpy(X[:10]), torch.from_numpy(Y[:10])
        by_batch = 0.8 * loss(model(x[:8]), y[:8]) + 0.2 * loss(model(x[8:]), y[8:])
    assert trainer.history[-1]["val_loss"] == pytest.approx(by_batch.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("penalties", "adversary"), [([SensitivityPenalty()], None), ([], TRADES(eps=0.1))], ids=["noisy", "perturbed"]
)
def test_it_is_refused_where_other_images_pass_too(penalties, adversary):
    trainer = with_centres(penalties, adversary)[0]
    before = weights_of(trainer.classifier)
    with pytest.raises(ValueError, match=r"`loss` of the classifier uses 'features', which each pass of the model"):
        trainer.fit(X, Y, verbose=False)
    assert same_weights(weights_of(trainer.classifier), before)


def test_it_is_refused_in_a_dict_of_hooks_too():
    model, kept = small_model(), {}
    model[1].register_forward_hook(lambda module, inputs, output: kept.update(hidden=output))
    classifier = classifier_of(model, None, lambda z, y: F.cross_entropy(z, y) + kept["hidden"].pow(2).mean())
    SensRegTrainer(classifier, [], TrainingConfig(seed=0), PGD(eps=0.1)).fit(X, Y, nb_epochs=1, verbose=False)
    with pytest.raises(ValueError, match=r"`loss` of the classifier uses 'kept.hidden'"):
        SensRegTrainer(classifier, [SensitivityPenalty()]).fit(X, Y, nb_epochs=1, verbose=False)
