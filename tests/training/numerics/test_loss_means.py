"""`val_loss` is that of all rows, whatever the batches are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import SensRegTrainer, TrainingConfig
from tests.conftest import weights_of
from tests.training.helpers import X, Y, classifier_of, small_model

UNEVEN = np.where(np.arange(len(Y)) < 9, 0, Y)  # the batches' class weights differ


WEIGHT = torch.tensor([1.0, 4.0, 0.5])


LOSSES = {
    "mean": (nn.CrossEntropyLoss(), lambda z, y: F.cross_entropy(z, y)),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), lambda z, y: F.cross_entropy(z, y)),
    "a sum of one's own": (lambda z, y: F.cross_entropy(z, y, reduction="sum"), lambda z, y: F.cross_entropy(z, y)),
    "class weights": (nn.CrossEntropyLoss(WEIGHT), lambda z, y: F.cross_entropy(z, y, WEIGHT)),
    "class weights, a sum": (
        nn.CrossEntropyLoss(WEIGHT, reduction="sum"),
        lambda z, y: F.cross_entropy(z, y, WEIGHT, reduction="sum") / len(y),
    ),
    "an ignored class": (nn.CrossEntropyLoss(ignore_index=0), lambda z, y: F.cross_entropy(z, y, ignore_index=0)),
    "smoothed": (
        nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1),
        lambda z, y: F.cross_entropy(z, y, WEIGHT, label_smoothing=0.1),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch_size", [5, 8, 24])
def test_the_loss_of_all_rows(name, batch_size):
    loss, expected = LOSSES[name]
    model = small_model()
    before = [p.detach().clone() for p in model.parameters()]
    classifier = classifier_of(model, torch.optim.SGD(model.parameters(), lr=0.0), loss)
    trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0, batch_size=batch_size))
    trainer.fit(X, Y, (X, UNEVEN), nb_epochs=1, verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(classifier), strict=True))
    with torch.no_grad():
        truth = expected(model(torch.from_numpy(X)), torch.from_numpy(UNEVEN)).item()
    assert trainer.history[0]["val_loss"] == pytest.approx(truth, rel=1e-5)


def test_a_loss_per_example_is_refused_before_any_weight_changes():
    model = small_model(nn.BatchNorm1d(8))
    before = [value.clone() for value in model.state_dict().values()]
    with pytest.raises(TypeError, match=r"`base` is a tensor of shape \(24,\); expected a 0-d tensor"):
        classifier_of(model, loss=nn.CrossEntropyLoss(reduction="none")).fit(X, Y, nb_epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
