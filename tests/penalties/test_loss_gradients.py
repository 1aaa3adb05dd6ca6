"""Gradients of the loss at the images: against each image's own gradient, one at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from art_sensreg.penalties.loss_gradients import cross_entropy, direction_loss, loss_gradients
from tests.penalties.helpers import batch, built


def network(*layers):
    return built(lambda: nn.Sequential(nn.Linear(8, 6), *layers, nn.Tanh(), nn.Linear(6, 3))).double()


def one_by_one(model, x, y):
    """The gradient of each image's cross-entropy."""
    found = []
    for image, label in zip(x, y, strict=True):
        leaf = image[None].clone().requires_grad_()
        found.append(torch.autograd.grad(F.cross_entropy(model(leaf), label[None]), leaf)[0][0])
    return torch.stack(found)


def test_they_are_those_of_each_image_alone():
    x, y = batch()
    model, x = network(), x.double()
    found = loss_gradients(model, x, lambda logits: cross_entropy(logits, y))
    assert torch.allclose(found, one_by_one(model, x, y), atol=1e-12)
    assert not found.requires_grad
    hot = F.one_hot(y, 3)
    assert torch.equal(loss_gradients(model, x, lambda logits: cross_entropy(logits, hot)), found)


def test_those_of_the_direction_loss_are_parallel():
    x, y = batch()
    model, x = network(), x.double()
    soft = F.one_hot(y, 3) * 0.8 + 0.05
    for labels in (y, F.one_hot(y, 3), soft):
        pairs = [loss_gradients(model, x, lambda z, of=of, labels=labels: of(z, labels))
                 for of in (cross_entropy, direction_loss)]  # fmt: skip
        assert torch.allclose(*(F.normalize(pair, dim=1) for pair in pairs), atol=1e-12)


def test_the_statistics_of_the_batch_are_constants_and_do_not_move():
    x, y = batch()
    model, x = network(nn.BatchNorm1d(6)), x.double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = loss_gradients(model, x, lambda logits: cross_entropy(logits, y), create_graph=True)
    assert found.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    hidden = model[0](x).detach()
    model[1].running_mean.copy_(hidden.mean(0))
    model[1].running_var.copy_(hidden.var(0, correction=0))
    assert torch.allclose(found, one_by_one(model.eval(), x, y), atol=1e-12)


def test_models_with_one_output_are_refused():
    x, _ = batch()
    with pytest.raises(ValueError, match=r"`model` returns one output; .* expects two logits"):
        loss_gradients(nn.Linear(8, 1), x, lambda logits: logits.sum())
