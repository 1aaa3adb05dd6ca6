import pytest
import torch
from torch import nn

from art_sensreg.attacks.base.ascent import Steps, ascend, margin_of, value_and_grad
from art_sensreg.attacks.base.losses import cross_entropy
from art_sensreg.attacks.base.norms import Ball
from tests.attacks.trained import points, trained


def two_class(loss_of, logit_of=None):
    """A loss function of images whose second logit is a function of them, with the label 0 everywhere."""
    logit_of = logit_of or loss_of

    def loss_fn(x):
        return loss_of(x), torch.stack([torch.zeros(len(x)), logit_of(x)], dim=1)

    return loss_fn


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("linf", [[0.6, 0.4]]),  # each step moves every pixel by 0.04, until 0.1
        ("l2", [[0.5 + 0.6 * 0.1, 0.5 - 0.8 * 0.1]]),  # along (3, -4) / 5
        ("l1", [[0.5, 0.4]]),  # along the largest coordinate
    ],
)
def test_linear_loss_by_hand(norm, expected):
    weight = torch.tensor([3.0, -4.0])
    x, y = torch.full((1, 2), 0.5), torch.tensor([0])
    found = ascend(two_class(lambda u: u @ weight), x, y, Ball(norm, 0.1), x, Steps(eps_step=0.04, max_iter=5))
    assert torch.allclose(found.perturbed, torch.tensor(expected))
    steps = torch.tensor([0.0, 0.04, 0.08, 0.1, 0.1, 0.1])
    dual = {"linf": 7.0, "l2": 5.0, "l1": 4.0}[norm]
    assert torch.allclose(found.losses, -0.5 + dual * steps, atol=1e-6)
    assert torch.allclose(found.margins[:, 0], -0.5 + dual * steps, atol=1e-6)
    assert torch.allclose(found.margin, found.last_margin, atol=1e-6)


def test_cosine_steps_by_hand():
    x, y = torch.zeros(1, 1), torch.tensor([0])
    loss_fn = two_class(lambda u: u[:, 0])
    found = ascend(loss_fn, x, y, Ball("linf", 10.0), x, Steps(eps_step=1.0, max_iter=2, schedule="cosine"))
    assert torch.allclose(found.losses, torch.tensor([0.0, 1.0, 1.505]))


def test_the_best_iterate_is_kept_and_not_the_last():
    def tent(u):  # highest at 0.3
        return 0.1 - (u[:, 0] - 0.3).abs()

    x, y = torch.zeros(1, 1), torch.tensor([0])
    found = ascend(two_class(lambda u: u[:, 0], tent), x, y, Ball("linf", 1.0), x, Steps(eps_step=0.1, max_iter=10))
    assert found.perturbed.item() == pytest.approx(0.3)
    assert found.margin.item() == pytest.approx(0.1)
    assert found.last_margin.item() == pytest.approx(-0.6)
    assert (found.margins.diff(dim=0) >= 0).all()


def test_start_outside_of_the_ball_is_brought_in():
    x, y = torch.zeros(1, 1), torch.tensor([0])
    found = ascend(two_class(lambda u: 0 * u[:, 0]), x, y, Ball("linf", 0.2), x + 5, Steps(eps_step=0.1, max_iter=1))
    assert found.perturbed.item() == pytest.approx(0.2)


def test_gradients_that_are_missing_or_not_finite_become_zero():
    assert not value_and_grad(lambda x: (torch.ones(2), x), torch.ones(2, 3))[0].any()
    gradient, loss, _ = value_and_grad(lambda x: ((x - 1).sqrt().sum(1), x), torch.tensor([[1.0, 2.0], [0.0, 5.0]]))
    assert torch.equal(gradient, torch.tensor([[0.0, 0.5], [0.0, 0.25]]))
    assert loss[1].isnan()


def test_no_gradient_reaches_the_parameters():
    model = trained()
    x, y = (torch.from_numpy(part) for part in points(4))
    value_and_grad(lambda u: (cross_entropy(model(u), y), model(u)), x)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_logits_that_are_nan_are_no_success():
    x, y = torch.zeros(2, 1), torch.tensor([0, 0])
    nan = torch.full((2,), float("nan"))
    found = ascend(
        two_class(lambda u: u[:, 0], lambda u: nan), x, y, Ball("linf", 1.0), x, Steps(eps_step=0.1, max_iter=3)
    )
    assert not (found.margin > 0).any()
    assert torch.equal(found.perturbed, x)
    assert margin_of(nn.Identity(), torch.full((1, 2), float("nan")), y[:1]).item() == -float("inf")
