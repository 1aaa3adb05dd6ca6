"""Steps and runs that do not count leave no trace."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import list_checkpoints, read_checkpoint
from tests.training.helpers import Arm, X, Y, classifier_of, fit_armed, small_model


class Poison(nn.Module):
    """Makes the batches of some steps NaN before a BatchNorm, as an overflow in an early layer does."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.step = steps, 0

    def forward(self, x):
        return x * float("nan") if self.training and self.step in self.steps else x


class HandWritten(nn.Module):
    """A BatchNorm that replaces its buffer in every step."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running", torch.zeros(8))

    def forward(self, x):
        if self.training:
            self.running = 0.9 * self.running + 0.1 * x.detach().mean(0)
        return x - self.running


def poisoned(when):
    return small_model(Poison(when), HandWritten(), nn.BatchNorm1d(8))


class Record(Callback):
    """Every tensor of the model after each step."""

    def __init__(self):
        self.states = []

    def on_step(self, state):
        self.states.append({name: value.clone() for name, value in state.model.state_dict().items()})


def same_state(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("penalties", [(), (SensitivityPenalty(), JacobianPenalty())], ids=["plain", "SR and JR"])
@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_step_that_is_left_out_leaves_no_trace(penalties, ema):
    record = Record()
    model = poisoned({3})
    trainer = fit_armed(model, penalties, on_nonfinite="skip", ema=ema, callbacks=[record])
    assert trainer.history[0]["skipped"] == 1
    assert same_state(record.states[1], record.states[2])
    assert not same_state(record.states[2], record.states[3])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert np.isfinite(trainer.classifier.predict(X)).all()


def test_a_run_that_stops_has_the_buffers_of_before_the_step(tmp_path):
    record = Record()
    model = poisoned({5})
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 2.*The weights are those before this step"):
        fit_armed(model, callbacks=[record], folder=tmp_path)
    assert same_state(model.state_dict(), record.states[-1])
    stored = read_checkpoint(list_checkpoints(tmp_path)[0])[1]["model"]
    assert all(torch.isfinite(value).all() for value in stored.values())
    assert same_state(record.states[2], stored)


def test_an_epoch_without_a_single_good_step():
    trainer = fit_armed(poisoned(range(1, 4)), on_nonfinite="skip", monitor="loss", patience=5)
    assert np.isnan(trainer.history[0]["loss"])
    assert np.isfinite(trainer.history[1]["loss"])


def test_a_buffer_of_the_loss_goes_back_too():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, logits, y):
            self.mean.mul_(0.9).add_(logits.detach().mean(0))
            return F.cross_entropy(logits - self.mean, y)

    model, loss = small_model(Poison({2})), Loss()
    classifier_of(model, loss=loss).fit(
        X, Y, config=TrainingConfig(on_nonfinite="skip", batch_size=8, nb_epochs=1, callbacks=[Arm()])
    )
    assert torch.isfinite(loss.mean).all()


class Raise(Callback):
    def __init__(self, moment, error):
        setattr(self, moment, self.throw)
        self.error = error

    def throw(self, state):
        if state.total_steps in (0, 2, 3, 6):
            raise self.error


@pytest.mark.parametrize("moment", ["on_start", "on_step", "on_epoch", "on_end"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk"), ValueError("own")], ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_after_an_exception_the_model_is_as_it_was(moment, error, training):
    model = small_model(nn.Dropout(), nn.BatchNorm1d(8))
    model.train(training)
    model[3].eval()  # a mode of its own
    model[-1].requires_grad_(False)
    modes = [module.training for module in model.modules()]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    classifier = classifier_of(model, optimizer)
    config = TrainingConfig(seed=0, batch_size=8, callbacks=[Raise(moment, error)], channels_last=True)
    trainer = SensRegTrainer(classifier, [SensitivityPenalty(), JacobianPenalty()], config)
    with pytest.raises(type(error)):
        trainer.fit(X, Y, nb_epochs=2, verbose=False)
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model[-1].parameters()] == [False, False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert optimizer.param_groups[0]["fused"] is None
    assert F.batch_norm.__module__ == "torch.nn.functional"


def test_an_exception_in_the_middle_of_a_step_moves_no_buffer():
    class Fail(nn.Module):
        weight, name = 1.0, "fail"

        def forward(self, model, x, y):
            raise RuntimeError("own")

    model = small_model(nn.BatchNorm1d(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="own"):
        fit_armed(model, [SensitivityPenalty(), Fail()])
    assert same_state(before, model.state_dict())


def test_after_success_the_model_is_in_evaluation_mode():
    model = small_model(nn.Dropout())
    model.train()
    fit_armed(model)
    assert not any(module.training for module in model.modules())


class Switched(nn.Module):
    """NaN while it is switched on, which a model is looked at once more for."""

    def __init__(self):
        super().__init__()
        self.on = False

    def forward(self, x):
        return x * float("nan") if self.training and self.on else x


@pytest.mark.parametrize("estimator", ["exact", "projection"])
def test_a_nan_step_is_not_mistaken_for_examples_that_influence_each_other(estimator):
    switch = Switched()

    class Flip(Callback):
        def on_step(self, state):
            switch.on = state.total_steps == 2

    model = small_model(switch, nn.BatchNorm1d(8))
    trainer = fit_armed(model, [JacobianPenalty(estimator=estimator)], on_nonfinite="skip", callbacks=[Flip()])
    assert trainer.history[-1]["skipped"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
