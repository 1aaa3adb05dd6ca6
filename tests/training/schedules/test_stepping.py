"""When schedulers step, judged by the learning rate of every step."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from art_sensreg import SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback, ValidationAttack
from tests.conftest import same_weights, weights_of

X = np.random.default_rng(0).random((40, 4)).astype("float32")
Y = np.arange(40) % 2
STEPS, EPOCHS = 10, 5  # of an epoch of batches of 4; epochs of a run


def classifier():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    return SensRegClassifier(
        model, nn.CrossEntropyLoss(), (4,), 2, optimizer=optimizer, clip_values=(0.0, 1.0), device_type="cpu"
    )


class Rates(Callback):
    """The learning rate that each step was done with."""

    def __init__(self, optimizer):
        self.optimizer, self.rates = optimizer, []
        optimizer.register_step_pre_hook(lambda *_: self.rates.append(optimizer.param_groups[0]["lr"]))

    def on_end(self, state):
        """Nothing; it makes this a callback."""


def rates_of(make, epochs=EPOCHS, validation=False, **config):
    trained = classifier()
    scheduler = make(trained.optimizer)
    record = Rates(trained.optimizer)
    trainer = SensRegTrainer(trained, [], TrainingConfig(seed=0, batch_size=4, **config))
    data = (X, Y) if validation else None
    trainer.fit(X, Y, data, nb_epochs=epochs, scheduler=scheduler, verbose=False)
    return record.rates


def by_hand(make, calls_per_epoch, epochs=EPOCHS):
    """The learning rates of plain torch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(epochs):
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if calls_per_epoch == STEPS:
                scheduler.step()
        if calls_per_epoch == 1:
            scheduler.step()
    return rates


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


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda o: schedulers.StepLR, TypeError, r"`scheduler` is the class StepLR; .*StepLR\(classifier.optimizer"),
        (lambda o: lambda optimizer: schedulers.StepLR(optimizer, 1), TypeError, r"a function that makes one\?"),
        (lambda o: o, TypeError, r"`scheduler` is the optimizer SGD"),
        (lambda o: [schedulers.StepLR(o, 1)], TypeError, r"`scheduler` is \[.*expected a torch learning rate"),
        (lambda o: "cosine", TypeError, r"`scheduler` is 'cosine'"),
        (
            lambda o: schedulers.StepLR(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), 1),
            ValueError,
            r"`scheduler` drives another optimizer",
        ),
        (lambda o: NeedsMetric(o), TypeError, r"`scheduler` is NeedsMetric, whose `step` needs \['quality'\]"),
        (
            lambda o: schedulers.LambdaLR(o, [1.0, 0.5].__getitem__),
            ValueError,
            r"called 5 times in this run; its function fails at 2",
        ),
        (
            lambda o: schedulers.LambdaLR(o, lambda epoch: 1 - epoch / 2),
            ValueError,
            r"its function gives -0.5 at 3; expected a finite factor",
        ),
    ],
)
def test_what_is_no_scheduler_of_this_run_is_refused_before_it(make, error, message):
    trained = classifier()
    before = weights_of(trained)
    with pytest.raises(error, match=message):
        trained.fit(X, Y, batch_size=4, nb_epochs=EPOCHS, scheduler=make(trained.optimizer))
    assert same_weights(before, weights_of(trained))


class NeedsMetric(schedulers.LRScheduler):
    def get_lr(self):
        return self.base_lrs

    def step(self, quality=None):
        super().step()

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.step = lambda quality: None


# --- schedulers of timm's kind --------------------------------------------------------------------------------------


class TimmLike:
    """The interface of `timm.scheduler.Scheduler`: calls with the numbers of epochs and updates done."""

    def __init__(self, optimizer, t_in_epochs):
        self.optimizer, self.t_in_epochs = optimizer, t_in_epochs

    def _set(self, t, wanted):
        if wanted:
            for group in self.optimizer.param_groups:
                group["lr"] = 1 / (t + 1)

    def step(self, epoch, metric=None):
        self._set(epoch, self.t_in_epochs)

    def step_update(self, num_updates, metric=None):
        self._set(num_updates, not self.t_in_epochs)

    def state_dict(self):
        return {"t_in_epochs": self.t_in_epochs}

    def load_state_dict(self, state):
        self.__dict__.update(state)


@pytest.mark.parametrize("t_in_epochs", [True, False])
def test_schedulers_of_timms_kind(t_in_epochs):
    done = range(EPOCHS * STEPS)
    expected = [1 / ((number // STEPS if t_in_epochs else number) + 1) for number in done]
    assert rates_of(lambda o: TimmLike(o, t_in_epochs)) == expected
    other = "step" if t_in_epochs else "epoch"
    with pytest.raises(ValueError, match=rf"`scheduler_interval` is '{other}' and `scheduler` counts in units of"):
        rates_of(lambda o: TimmLike(o, t_in_epochs), scheduler_interval=other)


# --- what a plateau watches -----------------------------------------------------------------------------------------


class Spy(schedulers.ReduceLROnPlateau):
    def step(self, metrics, epoch=None):
        self.seen = [*getattr(self, "seen", []), metrics]
        super().step(metrics)


@pytest.mark.parametrize(
    ("entry", "mode"), [("val_robust_accuracy", "max"), ("val_loss", "min"), ("size", "max"), (None, "max")]
)
def test_a_plateau_watches_any_entry_of_the_history(entry, mode):
    def size(model, x, y):
        return model(x).pow(2).mean()

    trained = classifier()
    spy = Spy(trained.optimizer, mode=mode)
    config = TrainingConfig(
        seed=0, batch_size=4, scheduler_monitor=entry, validation_attack=ValidationAttack(eps=0.1, max_iter=2)
    )
    trainer = SensRegTrainer(trained, [size], config)
    trainer.fit(X, Y, (X, Y), nb_epochs=3, scheduler=spy, verbose=False)
    assert spy.seen == [record[entry or "val_accuracy"] for record in trainer.history]


def test_what_a_plateau_cannot_watch_is_refused_before_training():
    plateau = schedulers.ReduceLROnPlateau
    with pytest.raises(ValueError, match=r"`scheduler_monitor` is 'val_robust_accuracy'; expected an entry of"):
        rates_of(lambda o: plateau(o, "max"), scheduler_monitor="val_robust_accuracy", validation=True)
    with pytest.raises(ValueError, match=r"`scheduler_monitor` is 'val_loss'; expected an entry of the history"):
        rates_of(plateau, scheduler_monitor="val_loss")
    with pytest.raises(ValueError, match=r"is 'accuracy' and the mode of `scheduler` 'min'; expected 'max'"):
        rates_of(plateau, scheduler_monitor="accuracy")
    with pytest.raises(ValueError, match=r"`scheduler_monitor` is 'loss' and `scheduler` is StepLR"):
        rates_of(lambda o: schedulers.StepLR(o, 1), scheduler_monitor="loss")
    with pytest.raises(TypeError, match=r"`scheduler_monitor` is 3"):
        TrainingConfig(scheduler_monitor=3)


def test_a_longer_run_goes_on_as_was_decided(tmp_path):
    """As many calls as the first run has steps: meant for steps, in the longer run too."""

    def run(epochs, resume):
        trained = classifier()
        record = Rates(trained.optimizer)
        scheduler = schedulers.CosineAnnealingLR(trained.optimizer, STEPS * 3)
        trainer = SensRegTrainer(trained, [], TrainingConfig(seed=0, batch_size=4))
        trainer.fit(X, Y, nb_epochs=epochs, scheduler=scheduler, checkpoint_dir=tmp_path, resume=resume, verbose=False)
        return record.rates

    found = run(3, False) + run(EPOCHS, True)
    assert found == pytest.approx(by_hand(lambda o: schedulers.CosineAnnealingLR(o, STEPS * 3), STEPS))
