"""A number of any kind is taken for the same number."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from art_sensreg import (
    FisherRaoPenalty,
    GradientDiversityPenalty,
    JacobianPenalty,
    SensitivityPenalty,
    TrainingConfig,
)
from art_sensreg.adversaries import FGSMRS, NFGSM, PGD, TRADES
from art_sensreg.attacks import ProjectedAscent
from art_sensreg.randomization import BayesianKL
from art_sensreg.training import ValidationAttack
from tests.wrong_inputs.test_settings import needed

NUMBERS = [Fraction(1, 4), Decimal("0.25"), np.float16(0.25), np.longdouble(0.25), torch.tensor(0.25)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
def test_a_number_of_any_kind_is_the_same_number(number):
    """A fraction cannot be multiplied by a tensor: it has to become a float before."""
    for owner, names in {
        SensitivityPenalty: ("weight", "sigma"),
        FisherRaoPenalty: ("eps", "eps_step"),
        GradientDiversityPenalty: ("weight", "delta"),
        BayesianKL: ("weight",),
        FGSMRS: ("eps", "eps_step", "clean_fraction"),
        NFGSM: ("eps", "noise"),
        PGD: ("eps", "eps_step"),
        TRADES: ("eps", "beta"),
        ValidationAttack: ("eps", "eps_step"),
        TrainingConfig: (
            "penalty_fraction",
            "penalty_warmup",
            "eps_warmup",
            "ema",
            "max_grad_norm",
            "clip_tolerance",
        ),
        ProjectedAscent: ("eps", "eps_step"),
    }.items():
        for name in names:
            made, wanted = (owner(**{**needed(owner), name: value}) for value in (number, 0.25))
            assert type(getattr(made, name)) is float
            assert getattr(made, name) == getattr(wanted, name)
    assert SensitivityPenalty(sigma=(number, 0.5)) == SensitivityPenalty(sigma=(0.25, 0.5))
    assert JacobianPenalty(sigma=number) == JacobianPenalty(sigma=0.25)
