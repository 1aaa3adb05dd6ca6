"""Lists of penalties are checked, and their entries named."""

import pytest
import torch

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.adversaries import PGD
from art_sensreg.penalty_lists import HISTORY_KEYS, active_penalties, check_penalties, check_term, unique_names


@pytest.mark.parametrize(
    ("penalties", "error", "message"),
    [
        (SensitivityPenalty(), TypeError, r"`penalties` is SensitivityPenalty\(.*\); expected a list"),
        ([SensitivityPenalty], TypeError, r"`penalties` holds <class .*SensitivityPenalty'>; expected objects"),
        ([3], TypeError, r"`penalties` holds 3"),
        ([JacobianPenalty()], ValueError, r"which shares the noise of a SensitivityPenalty"),
        ([JacobianPenalty(), SensitivityPenalty(weight=0)], ValueError, r"there is none with a weight above 0"),
    ],
)
def test_wrong_penalties(penalties, error, message):
    with pytest.raises(error, match=message):
        check_penalties(penalties)


def test_a_negative_weight_of_an_own_penalty():
    class Negative:
        weight = -1.0

        def __call__(self, model, x, y):
            return x.sum()

    with pytest.raises(ValueError, match=r"`weight` is -1.0"):
        check_penalties([Negative()])


def test_the_noise_to_share_may_be_the_adversarial_perturbation():
    assert len(check_penalties([JacobianPenalty()], PGD(eps=0.1, pair="adversarial"))) == 1
    with pytest.raises(ValueError, match="which shares the noise"):
        check_penalties([JacobianPenalty()], PGD(eps=0.1))


def test_penalties_of_weight_0_are_not_computed():
    def own(model, x, y):
        return x.sum()

    kept = SensitivityPenalty()
    assert active_penalties([SensitivityPenalty(weight=0), kept, own]) == [kept, own]


def test_names_are_unique_and_take_no_entry_of_the_history():
    def loss(model, x, y):
        return x.sum()

    names = unique_names([loss, loss, SensitivityPenalty(), SensitivityPenalty()])
    assert names == ["loss_2", "loss_3", "sensitivity", "sensitivity_2"]
    assert not set(names) & set(HISTORY_KEYS)


def test_a_term_is_a_0_d_tensor():
    value = torch.ones(())
    assert check_term("own", value) is value
    with pytest.raises(TypeError, match=r"The term `own` is a tensor of shape \(1,\); expected a 0-d tensor"):
        check_term("own", torch.ones(1))
