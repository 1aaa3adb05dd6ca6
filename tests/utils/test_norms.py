from fractions import Fraction

import numpy as np
import pytest
import torch

from art_sensreg.utils.norms import norm_name


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (np.inf, "linf"), (np.float16("inf"), "linf"), ("inf", "linf"), ("Linf", "linf"), ("L_inf", "linf"),
        (" l-inf ", "linf"),
        (2, "l2"), (2.0, "l2"), ("2", "l2"), ("L2", "l2"), (torch.tensor(2), "l2"), (Fraction(2), "l2"),
        (1, "l1"), ("l1", "l1"),
    ],
)  # fmt: skip
def test_every_spelling_of_a_norm(norm, name):
    assert norm_name(norm) == name


@pytest.mark.parametrize("norm", [0, 3, -np.inf, 10**400, True, None, "l3", "", np.nan])
def test_what_is_no_norm(norm):
    with pytest.raises(ValueError, match=r"^`norm` is .*; expected one of linf \(np.inf\), l2 \(2\), l1 \(1\)\.$"):
        norm_name(norm)


def test_only_the_norms_that_are_allowed():
    with pytest.raises(ValueError, match=r"^`norm` is 1; expected one of l2 \(2\)\.$"):
        norm_name(1, allowed=("l2",))
