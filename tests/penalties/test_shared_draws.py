"""What the branches of a batch share, in the forms in which published networks are written."""

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty
from art_sensreg.objectives import Objective
from tests.penalties.branch_models import Body
from tests.penalties.helpers import generator
from tests.penalties.test_branches import batch, built, by_hand


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.AlphaDropout])
def test_dropout_in_place(dropout):
    """As MNASNet, EfficientNet and MobileNetV3 of torchvision have it."""
    net, (x, y) = built(lambda: Body(dropout(0.5, inplace=True))), batch()
    objective = Objective([JacobianPenalty(sigma=0.1)])
    objective.prepare(net, x)
    assert objective.traits.stacked
    wanted = by_hand(net, x, 0.1)
    terms, _ = objective(net, x, y, generator())
    assert torch.isclose(terms["jacobian"], wanted, rtol=1e-3)
    terms["loss"].backward()
