"""Where a run stands: what a checkpoint holds of it."""

import copy

import pytest
import torch

from art_sensreg.training import TrainingState
from art_sensreg.training.metrics import EpochSums
from art_sensreg.training.run import Progress


def progress_of(nb_epochs=3):
    weight = torch.zeros(1, requires_grad=True)
    state = TrainingState(torch.nn.Identity(), torch.optim.SGD([weight], lr=0.5), nb_epochs=nb_epochs)
    return Progress(state, seed=7, sums=EpochSums(0.0))


def test_a_run_in_the_middle_of_an_epoch_comes_back_as_it_was():
    first = progress_of()
    first.begin_epoch()
    first.state.step = first.state.total_steps = 4
    first.sums.add({"loss": torch.tensor(2.0)}, torch.eye(2), torch.tensor([0, 0]), total=2)
    second = progress_of()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.begin_epoch()  # it goes on with the same one
    assert (second.state.epoch, second.state.step, second.epochs_done, second.learning_rate) == (1, 4, 0, 0.5)
    assert second.sums.means() == first.sums.means()


def test_a_stop_within_an_epoch_only_breaks_it_off():
    progress = progress_of()
    progress.begin_epoch()
    progress.state.stop = True
    assert not progress.state_dict()["stop"]
    progress.inside = False
    assert progress.state_dict()["stop"]


@pytest.mark.parametrize(("nb_epochs", "stops"), [(3, True), (4, False)])
def test_a_stop_holds_for_a_run_of_the_same_length(nb_epochs, stops):
    first, second = progress_of(), progress_of(nb_epochs)
    first.state.stop = True
    second.load_state_dict(first.state_dict())
    assert second.state.stop == stops


def test_a_run_that_is_further_is_refused_and_nothing_changes():
    first, second = progress_of(), progress_of(nb_epochs=1)
    first.state.epoch = 2
    before = copy.deepcopy(second.state_dict())
    with pytest.raises(ValueError, match="`nb_epochs` is 1; the checkpoint has done 2 epochs"):
        second.load_state_dict(first.state_dict())
    assert second.state_dict() == before
