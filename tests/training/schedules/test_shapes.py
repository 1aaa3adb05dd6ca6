"""Whether a schedule counts steps or epochs, told by its shape."""

import math

import pytest
from torch.optim import lr_scheduler as schedulers

from tests.conftest import same_weights, weights_of
from tests.training.schedules.helpers import EPOCHS, STEPS, X, Y, by_hand, classifier, rates_of


def warm_up_and_cosine(optimizer):
    total = STEPS * EPOCHS

    def factor(step):
        return min(1.0, (step + 1) / 4) * 0.5 * (1 + math.cos(math.pi * min(step / total, 1.0)))

    return schedulers.LambdaLR(optimizer, factor)


class Custom(schedulers.LRScheduler):
    """A warm-up of one's own over 40 steps, and a decay to 0 at the 50th."""

    def get_lr(self):
        factor = min(1.0, (self.last_epoch + 1) / 40) * max(0.0, 1 - self.last_epoch / 50)
        return [base * factor for base in self.base_lrs]


FOR_STEPS = {
    "a warm-up and a cosine": warm_up_and_cosine,
    "a warm-up by its argument's name": lambda o: schedulers.LambdaLR(o, lambda step: min(1.0, (step + 1) / 4)),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, STEPS * EPOCHS),
    "one after another": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=8), schedulers.CosineAnnealingLR(o, STEPS * EPOCHS - 8)], [8]
    ),
    "together": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, total_iters=8), schedulers.PolynomialLR(o, STEPS * EPOCHS)], o
    ),
    "of one's own": Custom,
    "one cycle": lambda o: schedulers.OneCycleLR(o, 1.0, total_steps=STEPS * EPOCHS + 1),
    "cyclic": lambda o: schedulers.CyclicLR(o, 0.1, 1.0, step_size_up=5, cycle_momentum=False),
}


FOR_EPOCHS = {
    "step": lambda o: schedulers.StepLR(o, 2),
    "a trial of a long schedule": lambda o: schedulers.StepLR(o, 60),
    "milestones": lambda o: schedulers.MultiStepLR(o, [2, 4]),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, EPOCHS),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "a function": lambda o: schedulers.LambdaLR(o, lambda epoch: 1 / (epoch + 1)),
    "a table": lambda o: schedulers.LambdaLR(o, [1.0, 0.5, 0.2, 0.1, 0.05, 0.0].__getitem__),
    "a product": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.5),
    "a warm-up": lambda o: schedulers.LinearLR(o, 0.1, total_iters=3),
}


AMBIGUOUS = {
    "a warm-up": lambda o: schedulers.LambdaLR(o, lambda t: min(1.0, (t + 1) / 20)),
    "linear": lambda o: schedulers.LinearLR(o, 0.01, total_iters=20),
    "a warm-up first": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.01, total_iters=20), schedulers.ExponentialLR(o, 0.9)], [20]
    ),
    "together": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.01, total_iters=20), schedulers.ExponentialLR(o, 0.99)], o
    ),
    "restarts after each two epochs": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2 * STEPS),
    "milestones of steps": lambda o: schedulers.MultiStepLR(o, [25, 37]),
    "steps by name": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
}


@pytest.mark.parametrize("name", FOR_STEPS)
def test_a_schedule_for_steps_steps_every_step(name):
    assert rates_of(FOR_STEPS[name]) == by_hand(FOR_STEPS[name], STEPS)


@pytest.mark.parametrize("name", FOR_EPOCHS)
def test_a_schedule_for_epochs_steps_every_epoch(name):
    assert rates_of(FOR_EPOCHS[name]) == by_hand(FOR_EPOCHS[name], 1)


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_may_be_either_is_refused_before_training_and_can_be_said(name):
    trained = classifier()
    before = weights_of(trained)
    with pytest.raises(ValueError, match=r"`scheduler_interval` is 'auto' and `scheduler`.*expected 'step'"):
        trained.fit(X, Y, batch_size=4, nb_epochs=EPOCHS, scheduler=AMBIGUOUS[name](trained.optimizer))
    assert same_weights(before, weights_of(trained))
    assert rates_of(AMBIGUOUS[name], scheduler_interval="step") == by_hand(AMBIGUOUS[name], STEPS)
    assert rates_of(AMBIGUOUS[name], scheduler_interval="epoch") == by_hand(AMBIGUOUS[name], 1)
