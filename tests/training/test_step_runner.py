"""What a step depends on: the seed, the number of the step and the process, and nothing that was drawn before."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegTrainer
from art_sensreg.adversaries import PGD
from art_sensreg.objectives import Objective
from art_sensreg.training import TrainingConfig, TrainingState
from art_sensreg.training.batches import BatchSizes, GlobalBatch, TensorBatches
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from art_sensreg.training.metrics import EpochSums
from art_sensreg.training.run import Progress, RunSetup
from art_sensreg.training.step_runner import StepRunner
from tests.training.helpers import X, Y, classifier_of, small_model

IMAGES, LABELS = torch.from_numpy(X), torch.from_numpy(Y)


@dataclass(frozen=True, kw_only=True)
class Seen(PGD):
    """Notes the sizes that it was used with."""

    eps_of_steps: list = field(default_factory=list)

    def draw_start(self, x, generator):
        self.eps_of_steps.append(self.eps)
        return super().draw_start(x, generator)


def runner(model, seed=0, adversary=None, **config):
    objective = Objective([SensitivityPenalty()], adversary=adversary)
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


def test_the_size_of_an_adversary_rises_over_a_share_of_the_planned_steps():
    adversary, sizes = Seen(eps=0.2), []
    do, _ = runner(small_model(), adversary=adversary, nb_epochs=4, eps_warmup=0.5)
    steps = 4 * -(-len(IMAGES) // 8)
    for _ in range(steps):
        adversary.eps_of_steps.clear()
        assert do(GlobalBatch(IMAGES[:8], LABELS[:8], 8))
        (size,) = set(adversary.eps_of_steps)
        sizes.append(size / 0.2)
    assert sizes == pytest.approx([min(1.0, (1 + step) / (steps / 2)) for step in range(steps)])


def test_a_size_that_rises_needs_an_adversary(make_classifier, digits):
    trainer = SensRegTrainer(make_classifier("cnn-small"), [], TrainingConfig(eps_warmup=0.5))

    class Fixed(PGD):
        def __init__(self):
            super().__init__(eps=0.1)

        def __repr__(self):
            return "Fixed()"

    with pytest.raises(ValueError, match=r"`eps_warmup` is 0\.5 with Fixed\(\), which cannot be made again with half"):
        SensRegTrainer(classifier_of(small_model()), (), TrainingConfig(eps_warmup=0.5), Fixed()).fit(
            X, Y, verbose=False
        )
    with pytest.raises(ValueError, match=r"`eps_warmup` is 0\.5 without an `adversary`"):
        trainer.fit(digits.x_train[:8], digits.y_train[:8], verbose=False)


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


@pytest.mark.parametrize(("done", "share"), [(0, 1 / 6), (1, 1 / 6), (3, 0.5), (6, 1.0), (9, 1.0)])
def test_a_resumed_run_knows_how_far_the_size_has_risen_before_its_first_step(done, share):
    do, state = runner(small_model(), adversary=Seen(eps=0.2), nb_epochs=4, eps_warmup=0.5)
    state.total_steps = done
    do.resume()
    assert do._setup.objective.eps_share == pytest.approx(share)


def test_the_first_steps_of_a_long_run_are_not_lost_in_rounding():
    do, _ = runner(small_model(), adversary=(adversary := Seen(eps=0.2)), nb_epochs=10**6, eps_warmup=1.0)
    assert do(GlobalBatch(IMAGES[:8], LABELS[:8], 8))
    assert set(adversary.eps_of_steps) == {0.2 / 4096}
