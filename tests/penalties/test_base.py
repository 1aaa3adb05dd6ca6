"""What all penalties have in common: how they are called alone, checked and measured together."""

import pytest
import torch
from torch import nn

from art_sensreg import FisherRaoPenalty, GradientDiversityPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.penalties.base import measure, plan_forward
from art_sensreg.penalties.inputs import PenaltyInputs
from tests.penalties.helpers import generator


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def test_measured_together_they_are_what_they_are_alone():
    model, x = net(), torch.rand(5, 6)
    sr, jr = SensitivityPenalty(sigma=0.1), JacobianPenalty(estimator="exact")
    penalties = {"one": sr, "other": jr}
    plan = plan_forward(model, x, penalties)
    found = measure(model, penalties, PenaltyInputs(x=x, generator=generator()), plan)
    assert list(found.values) == ["one", "other"]
    assert torch.isclose(found.values["one"], sr(model, x, generator=generator()))
    assert torch.isclose(found.values["other"], jr(model, x))
    assert torch.allclose(found.logits[0], model(x))
    assert found.plan is plan


def test_only_the_first_examples_get_noisy_copies_if_that_is_asked():
    model, x = net(), torch.rand(5, 6)
    penalties = {"sr": SensitivityPenalty(sigma=0.1)}
    plan = plan_forward(model, x, penalties)
    inputs = PenaltyInputs(x=x, generator=generator(), noisy_rows=2)
    found = measure(model, penalties, inputs, plan)
    assert torch.isclose(found.values["sr"], penalties["sr"](model, x[:2], generator=generator()))
    assert len(found.logits[0]) == 5


def test_without_gradients_nothing_has_a_graph():
    model, x = net(), torch.rand(5, 6)
    with torch.no_grad():
        assert not JacobianPenalty(estimator="projection")(model, x).requires_grad
        assert not SensitivityPenalty()(model, x).requires_grad


@pytest.mark.parametrize("penalty", [FisherRaoPenalty(eps=0.1, eps_step=0.1, max_iter=1), GradientDiversityPenalty()])
def test_nan_is_not_a_perfect_value(penalty):
    model, x, y = nn.Linear(6, 3), torch.rand(8, 6), torch.arange(8) % 3
    nn.init.constant_(model.weight, float("nan"))
    assert torch.isnan(penalty(model, x, y))
