"""Accuracy, and the means over an epoch's steps."""

import copy
import math

import pytest
import torch
from torch import nn

from art_sensreg.objectives import Objective
from art_sensreg.training.metrics import EpochSums, correct, largest_class, read, threshold


@pytest.mark.parametrize(
    ("logits", "y", "at", "expected"),
    [
        ([[2.0, 1.0], [0.0, 3.0]], [0, 0], 0.0, [True, False]),
        ([[2.0, 1.0], [0.0, 3.0]], [[0.9, 0.1], [0.2, 0.8]], 0.0, [True, True]),
        ([[0.4], [0.6]], [1.0, 1.0], 0.5, [False, True]),
        ([[0.4], [0.6]], [1.0, 1.0], 0.0, [True, True]),
    ],
)
def test_accuracy_of_indices_probabilities_and_a_single_output(logits, y, at, expected):
    assert correct(torch.tensor(logits), torch.tensor(y), at).tolist() == expected


def test_the_threshold_of_a_single_output_follows_from_the_loss():
    assert threshold(Objective(base_loss=nn.BCELoss())) == 0.5
    assert threshold(Objective(base_loss=nn.BCEWithLogitsLoss())) == 0


def test_means_are_weighted_by_the_size_of_each_batch_and_survive_a_checkpoint():
    sums, resumed = EpochSums(0.0), EpochSums(0.0)
    sums.add({"loss": torch.tensor(1.0)}, torch.eye(3), torch.tensor([0, 1, 0]), total=3)
    resumed.load_state_dict(copy.deepcopy(sums.state_dict()))
    for each in (sums, resumed):
        each.add({"loss": torch.tensor(5.0)}, torch.eye(3)[:1], torch.tensor([0]), total=1)
        assert each.means() == {"loss": 2.0, "accuracy": 0.75}


def test_a_term_counts_in_the_steps_that_have_it():
    sums, former = EpochSums(0.0), EpochSums(0.0)
    one = (torch.eye(2), torch.tensor([0, 1]))
    sums.add({"loss": torch.tensor(1.0), "cosine": torch.tensor(0.5)}, *one, total=2)
    state = copy.deepcopy(sums.state_dict())
    former.load_state_dict({name: state[name] for name in state if name != "counts"})  # of a version before
    for each in (sums, former):
        each.add({"loss": torch.tensor(3.0)}, *one, total=2)
        assert each.means() == {"loss": 2.0, "cosine": 0.5, "accuracy": 1.0}


def test_without_a_single_step_the_terms_are_nan():
    means = EpochSums(0.0).means(["loss", "base"])
    assert list(means) == ["loss", "base", "accuracy"]
    assert math.isnan(means["loss"])


def test_numbers_are_read_in_their_order():
    assert read([torch.tensor(1), 0.5, torch.tensor(2.0)]) == [1.0, 0.5, 2.0]


def test_the_largest_class_among_labels_in_any_form():
    classes = torch.tensor([0, 2, 2, 1, 2])
    assert largest_class(classes) == pytest.approx(0.6)
    assert largest_class(torch.nn.functional.one_hot(classes).float()) == pytest.approx(0.6)
    assert largest_class(torch.tensor([[1.0], [0.0], [1.0], [1.0]])) == pytest.approx(0.75)
