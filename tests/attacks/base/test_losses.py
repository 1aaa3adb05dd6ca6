import pytest
import torch

from art_sensreg.attacks.base.losses import (
    LOSSES,
    cross_entropy,
    logits_ratio,
    margin,
    targeted_margin,
    unit_scale_cross_entropy,
)


def test_losses_agree_with_their_formulas():
    logits, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    values = torch.stack([loss(logits, y) for loss in LOSSES.values()], dim=1).tolist()
    for row, label, ours in zip(logits, y, values, strict=True):
        others = [value for number, value in enumerate(row) if number != label]
        ordered = sorted(row.tolist(), reverse=True)
        assert ours[0] == pytest.approx(-row.log_softmax(0)[label].item(), rel=1e-5)
        assert ours[1] == pytest.approx((max(others) - row[label]).item(), rel=1e-5)
        assert ours[2] == pytest.approx((max(others) - row[label]).item() / (ordered[0] - ordered[2]), rel=1e-4)
    assert torch.allclose(logits_ratio(1e4 * logits, y), logits_ratio(logits, y))
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


def test_logits_ratio_of_two_classes():
    assert logits_ratio(torch.tensor([[3.0, -1.0]]), torch.tensor([0])).item() == pytest.approx(-1.0)


def test_targeted_margin_is_between_target_and_label():
    loss = targeted_margin(torch.tensor([1, 0]))
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert loss(logits, torch.tensor([0, 2])).tolist() == [-2.0, -1.0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_unit_scale_cross_entropy_does_not_depend_on_the_scale(scale):
    logits, y = torch.tensor([[2.0, 1.0, 0.5]], requires_grad=True), torch.tensor([0])
    loss = unit_scale_cross_entropy(scale * logits, y)
    assert torch.allclose(loss, cross_entropy(logits, y))  # whose margin is 1
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.allclose(gradient, torch.tensor([[2.0, 1.0, 0.5]]).softmax(1) - torch.tensor([[1.0, 0.0, 0.0]]))
