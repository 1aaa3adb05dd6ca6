"""When schedulers step, and which are refused."""

import pytest
import torch
from torch.optim import lr_scheduler as schedulers

from art_sensreg import SensRegTrainer, TrainingConfig
from art_sensreg.training import ValidationAttack
from tests.conftest import same_weights, weights_of
from tests.training.helpers import Stop, fit_into
from tests.training.schedules.helpers import EPOCHS, STEPS, Rates, X, Y, by_hand, classifier, rates_of


def test_a_one_cycle_schedule_resumes_with_the_same_objects(make_classifier, digits, tmp_path):
    def one_cycle(classifier, steps=12):
        return schedulers.OneCycleLR(classifier.optimizer, 1e-2, total_steps=steps)

    whole = make_classifier()
    fit_into(whole, digits, scheduler=one_cycle(whole))
    classifier = make_classifier()
    scheduler = one_cycle(classifier)
    with pytest.raises(InterruptedError):
        fit_into(classifier, digits, tmp_path, scheduler=scheduler, callbacks=[Stop(6)])
    fit_into(classifier, digits, tmp_path, scheduler=scheduler, resume=True)
    assert same_weights(weights_of(classifier), weights_of(whole))
    longer = make_classifier()
    with pytest.raises(ValueError, match=r"scheduler's `total_steps` is 12 in the checkpoint; expected 20"):
        fit_into(longer, digits, tmp_path, scheduler=one_cycle(longer, 20), resume=True, epochs=5)


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda optimizer: schedulers.StepLR(optimizer, 1), 2),
        (lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 2), 2),
        (lambda optimizer: schedulers.LambdaLR(optimizer, lambda epoch: 1 / (epoch + 1)), 2),
        (lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, patience=0), 2),
        (lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, mode="max"), 2),
        (lambda optimizer: schedulers.OneCycleLR(optimizer, 1e-2, total_steps=8), 8),
        (lambda optimizer: schedulers.OneCycleLR(optimizer, 1e-2, total_steps=2), 2),
        (lambda optimizer: schedulers.CyclicLR(optimizer, 1e-4, 1e-2, cycle_momentum=False), 8),
        (
            lambda optimizer: schedulers.SequentialLR(
                optimizer, [schedulers.ConstantLR(optimizer), schedulers.ExponentialLR(optimizer, 0.9)], [1]
            ),
            2,
        ),
    ],
)
def test_any_scheduler(make_classifier, digits, make, steps):
    classifier = make_classifier()
    scheduler = make(classifier.optimizer)
    start = scheduler.last_epoch
    trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0))
    trainer.fit(
        digits.x_train[:200], digits.y_train[:200], nb_epochs=2, batch_size=50, scheduler=scheduler, verbose=False
    )
    assert scheduler.last_epoch - start == steps


def test_the_interval_of_a_scheduler_can_be_given(make_classifier, digits):
    classifier = make_classifier()
    scheduler = schedulers.StepLR(classifier.optimizer, 1000)
    trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0, scheduler_interval="step"))
    trainer.fit(
        digits.x_train[:200], digits.y_train[:200], nb_epochs=2, batch_size=50, scheduler=scheduler, verbose=False
    )
    assert scheduler.last_epoch == 8


def test_a_plateau_cannot_be_watched_every_step(make_classifier, digits):
    classifier = make_classifier()
    scheduler = schedulers.ReduceLROnPlateau(classifier.optimizer)
    trainer = SensRegTrainer(classifier, [], TrainingConfig(scheduler_interval="step"))
    with pytest.raises(ValueError, match=r"`scheduler_interval` is 'step' and `scheduler` a ReduceLROnPlateau"):
        trainer.fit(digits.x_train[:50], digits.y_train[:50], nb_epochs=1, scheduler=scheduler, verbose=False)


def test_a_scheduler_that_is_too_short_is_refused_before_training(make_classifier, digits):
    classifier = make_classifier()
    scheduler = schedulers.OneCycleLR(classifier.optimizer, 1e-2, total_steps=5)
    before = weights_of(classifier)
    with pytest.raises(ValueError, match=r"`scheduler` has 5 of 5 steps left; expected at least 8"):
        classifier.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=2, batch_size=50, scheduler=scheduler)
    assert same_weights(before, weights_of(classifier))


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
