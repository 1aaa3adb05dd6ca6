"""Logit pairing against torch's mean squared error, on noise and on an adversary's pair."""

import pytest
import torch
from torch.nn import functional as F

from art_sensreg import SensitivityPenalty
from art_sensreg.adversaries import PGD
from art_sensreg.objectives import Objective
from art_sensreg.penalties import LogitPairingPenalty
from tests.adversaries.helpers import LOSS, draw_batch, small_net


def test_on_noise_of_its_own_and_of_another_penalty():
    (x, _), model = draw_batch(), small_net()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    found = LogitPairingPenalty(sigma=0.2)(model, x, generator=torch.Generator().manual_seed(0))
    assert found.item() == pytest.approx(F.mse_loss(model(x + 0.2 * noise), model(x)).item(), rel=1e-5)
    objective = Objective([SensitivityPenalty(sigma=0.2), LogitPairingPenalty()])
    objective.prepare(model, x)
    terms, _ = objective(model, x, torch.zeros(len(x), dtype=torch.long), torch.Generator().manual_seed(0))
    assert terms["logit_pairing"].item() == pytest.approx(found.item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"`sigma` of LogitPairingPenalty\(weight=10.0, sigma=None\) is None"):
        LogitPairingPenalty()(model, x)


def test_on_clean_and_adversarial_images():
    (x, y), model, adversary = draw_batch(), small_net(), PGD(eps=0.1, pair="adversarial")
    objective = Objective([LogitPairingPenalty(weight=0.5)], adversary=adversary)
    objective.prepare(model, x)
    terms, _ = objective(model, x, y, torch.Generator().manual_seed(0))
    perturbed = adversary.perturb(model, x, y, LOSS, torch.Generator().manual_seed(0))
    expected = F.mse_loss(model(perturbed), model(x)).item()
    assert terms["logit_pairing"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(LOSS(model(perturbed), y).item() + 0.5 * expected, rel=1e-5)
