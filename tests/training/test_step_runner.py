"""What a step depends on: the seed, the number of the step and the process, and nothing that was drawn before."""

import torch
from torch import nn

from art_sensreg import SensitivityPenalty
from art_sensreg.objectives import Objective
from art_sensreg.training import TrainingConfig, TrainingState
from art_sensreg.training.batches import BatchSizes, GlobalBatch, TensorBatches
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from art_sensreg.training.metrics import EpochSums
from art_sensreg.training.run import Progress, RunSetup
from art_sensreg.training.step_runner import StepRunner
from tests.training.helpers import X, Y, small_model

IMAGES, LABELS = torch.from_numpy(X), torch.from_numpy(Y)


def runner(model, seed=0, **config):
    objective = Objective([SensitivityPenalty()])
    objective.prepare(model.train(), IMAGES)
    setup = RunSetup(
        model=model,
        objective=objective,
        batches=TensorBatches(IMAGES, LABELS, BatchSizes(8)),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        config=TrainingConfig(**config),
    )
    state = TrainingState(model, setup.optimizer)
    progress = Progress(state, seed, EpochSums(0.0))
    return StepRunner(setup, progress, ObjectiveState(objective, model, setup.optimizer)), state


def terms_of(seed=0, step=0, drawn=0):
    do, state = runner(small_model(nn.Dropout()), seed)
    state.total_steps = step
    torch.rand(drawn)
    assert do(GlobalBatch(IMAGES[:8], LABELS[:8], 8))
    return state.terms


def test_noise_and_dropout_follow_from_seed_and_step():
    assert terms_of() == terms_of(drawn=5)
    assert terms_of()["sensitivity"] != terms_of(seed=1)["sensitivity"]
    assert terms_of()["base"] != terms_of(step=1)["base"]


def test_a_step_that_is_not_finite_does_not_count():
    model = small_model(nn.BatchNorm1d(8))
    do, state = runner(model, on_nonfinite="skip")
    before = [tensor.clone() for tensor in model.state_dict().values()]
    assert not do(GlobalBatch(IMAGES[:8] * float("nan"), LABELS[:8], 8))
    assert state.skipped == 1
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert do(GlobalBatch(IMAGES[:8], LABELS[:8], 8))
