"""The forward pass of a step in low precision, and when it stays in float32."""

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.adversaries import FGSMRS, TRADES, CarriedAdversary
from art_sensreg.adversaries.visits import Visit
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.penalties.inputs import WHOLE_BATCH
from art_sensreg.training.numerics.step_module import LOW_PRECISION_SIZES, StepModule
from tests.training.helpers import fit_digits


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_penalties_in_low_precision_are_close_to_those_in_float32(make_classifier, digits, precision):
    classifier = make_classifier("cnn-small")
    fit_digits(classifier, digits, n=1000, epochs=8)
    x, y = torch.from_numpy(digits.x_test), torch.from_numpy(digits.y_test)

    def terms(kind, sigma):
        objective = Objective([SensitivityPenalty(sigma=sigma), JacobianPenalty()])
        objective.prepare(classifier.model, x)
        module = StepModule(classifier.model, objective, kind)
        return module(x, y, Probes(0, torch.device("cpu")).at(0), WHOLE_BATCH)[0]

    exact, rounded = terms("float32", 0.3), terms(precision, 0.3)
    for name in ("sensitivity", "jacobian"):
        assert rounded[name].item() == pytest.approx(exact[name].item(), rel=0.02)
        assert rounded[name].dtype == torch.float32
    assert rounded["base"] != exact["base"]  # it was in low precision
    small = LOW_PRECISION_SIZES["noisy"] / 2
    pairs = zip(terms("float32", small).values(), terms(precision, small).values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_precision_without_effect_is_said(caplog):
    StepModule(nn.Linear(1, 1), Objective([SensitivityPenalty(sigma=LOW_PRECISION_SIZES["noisy"])]), "bfloat16")
    StepModule(nn.Linear(1, 1), Objective([SensitivityPenalty(sigma=LOW_PRECISION_SIZES["noisy"] / 2)]), "float32")
    assert not caplog.records
    StepModule(nn.Linear(1, 1), Objective([SensitivityPenalty(sigma=LOW_PRECISION_SIZES["noisy"] / 2)]), "bfloat16")
    assert "`precision` 'bfloat16' has no effect" in caplog.text


def test_steps_are_in_float32_while_the_size_is_too_small_for_less(caplog):
    x, y = torch.rand(8, 4), torch.arange(8) % 2
    adversary = CarriedAdversary(eps=0.2, pair="start")
    objective = Objective([SensitivityPenalty()], nn.CrossEntropyLoss(), adversary=adversary)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    objective.prepare(model, x)
    found = {}
    for precision in ("float32", "bfloat16"):
        module = StepModule(model, objective, precision)
        for share in (0.1, 1.0):
            objective.eps_share = share
            probes = Probes(0, torch.device("cpu")).at(0)
            terms, _ = module(x, y, probes, WHOLE_BATCH, Visit(torch.zeros_like(x)))
            found[precision, share] = terms["loss"].item()
    assert found["float32", 0.1] == found["bfloat16", 0.1]
    assert found["float32", 1.0] != found["bfloat16", 1.0]
    assert not caplog.records


@pytest.mark.parametrize("pair", ["start", "adversarial", "noisy"])
def test_an_adversary_may_move_less_than_noise(make_classifier, digits, pair, caplog):
    """It moves activations further: its pairs keep their value in half precision where noise of its size would not."""
    classifier = make_classifier("cnn-small")
    fit_digits(classifier, digits, n=1000, epochs=8)
    model, x, y = classifier.model, torch.from_numpy(digits.x_test[:128]), torch.from_numpy(digits.y_test[:128])
    bounds = (torch.tensor(0.0), torch.tensor(1.0))
    found, least = {}, LOW_PRECISION_SIZES["adversarial"]
    for precision in ("float32", "bfloat16"):
        for size in (least, least / 2):
            adversary = CarriedAdversary(eps=2 * size if pair == "start" else size, eps_step=size, pair=pair)
            penalties = [SensitivityPenalty(sigma=0.1)]
            objective = Objective(penalties, nn.CrossEntropyLoss(), bounds, adversary)
            objective.prepare(model, x)
            module = StepModule(model, objective, precision)
            perturbation = adversary.draw_start(x, torch.Generator().manual_seed(0))
            values = []
            for _ in range(3):  # it comes to lie at the border, which a step cannot leave
                visit = Visit(perturbation.clone())
                terms, _ = module(x, y, Probes(0, torch.device("cpu")).at(0), WHOLE_BATCH, visit)
                values.append(terms["sensitivity"].item())
                perturbation = visit.moved.detach()
            found[precision, size] = module.low, values
    lows = [found["bfloat16", size][0] for size in (least, least / 2)]
    assert lows == ([None, None] if pair == "noisy" else [torch.bfloat16, None])
    assert found["bfloat16", least][1] == pytest.approx(found["float32", least][1], rel=0.05)


def test_the_first_step_of_an_adversary_is_that_of_float32(make_classifier, digits):
    classifier = make_classifier("cnn-small")
    fit_digits(classifier, digits, n=1000, epochs=8)  # confident: small gradients
    model, kind = classifier.model.train(), torch.device("cpu")
    x, y = torch.from_numpy(digits.x_test[:64]), torch.from_numpy(digits.y_test[:64])
    bounds, given = (torch.tensor(0.0), torch.tensor(1.0)), {"eps": 0.35, "eps_step": 0.35, "pair": "start"}
    for adversary in (TRADES(max_iter=1, **given), FGSMRS(**given), CarriedAdversary(**given)):
        start = adversary.draw_start(x, torch.Generator().manual_seed(0))
        moved = {}
        for precision in ("float32", "bfloat16", "float16"):
            objective = Objective([SensitivityPenalty(sigma=0.3)], nn.CrossEntropyLoss(), bounds, adversary)
            objective.prepare(model, x)
            visit = Visit(start.clone())
            StepModule(model, objective, precision)(x, y, Probes(0, kind).at(0), WHOLE_BATCH, visit)
            moved[precision] = visit.moved
        for precision in ("bfloat16", "float16"):
            assert (moved["float32"] == moved[precision]).float().mean() > 0.98


def test_the_threshold_is_in_units_of_the_input_range():
    penalties = [SensitivityPenalty(sigma=LOW_PRECISION_SIZES["noisy"] * 10)]
    bounds = torch.tensor(0.0), torch.tensor(255.0)
    assert StepModule(nn.Linear(1, 1), Objective(penalties, None, bounds), "bfloat16").low is None
    assert StepModule(nn.Linear(1, 1), Objective(penalties), "bfloat16").low == torch.bfloat16
