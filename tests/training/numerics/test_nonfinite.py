"""NaN and infinite values: steps that do not count, runs that stop, weights that are never kept."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import list_checkpoints, read_checkpoint
from tests.conftest import same_weights, weights_of
from tests.training.helpers import fit_armed, fit_digits, fit_into, small_model


class Exploding:
    weight, name = 1.0, "exploding"

    def __init__(self, when):
        self.when, self.calls = when, 0

    def __call__(self, model, x, y):
        self.calls += 1
        return model(x).sum() * (float("nan") if self.calls in self.when else 0.0)


def test_steps_whose_loss_is_not_finite_can_be_left_out(make_classifier, digits, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = fit_digits(make_classifier(), digits, [Exploding({2, 5})], on_nonfinite="skip")
    assert [record["skipped"] for record in trainer.history] == [1, 2]
    assert np.isfinite(trainer.history[-1]["loss"])
    assert "Step 2 of epoch 1 is skipped: 'exploding' is not finite" in caplog.text
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 4; .* 2 steps were skipped before it"):
        fit_digits(make_classifier(), digits, [Exploding(range(2, 9))], on_nonfinite="skip", max_skipped=2)


def root_at_zero(model, x, y):
    return (model(x) * 0).pow(2).sum().sqrt()


def test_a_gradient_that_is_not_finite_stops_before_the_step(make_classifier, digits):
    classifier = make_classifier()
    before = weights_of(classifier)
    with pytest.raises(FloatingPointError, match=r"The term 'gradient' is nan in epoch 1, step 1.*before this step"):
        fit_into(classifier, digits, penalties=[root_at_zero])
    assert same_weights(before, weights_of(classifier))
    with pytest.raises(FloatingPointError, match=r"3 steps were skipped before it"):
        fit_into(classifier, digits, penalties=[root_at_zero], on_nonfinite="skip", max_skipped=3)
    assert same_weights(before, weights_of(classifier))


def test_a_nonfinite_loss_stops_before_the_step(make_classifier, digits):
    classifier = make_classifier()
    steps = []

    def exploding(model, x, y):
        steps.append(weights_of(classifier))
        return model(x).sum() * (float("nan") if len(steps) == 3 else 0.0)

    trainer = SensRegTrainer(classifier, [exploding], TrainingConfig(seed=0))
    with pytest.raises(FloatingPointError, match=r"The term 'exploding' is nan in epoch 2, step 1"):
        trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=5, verbose=False)
    assert same_weights(steps[-1], weights_of(classifier))


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_weights_that_are_not_finite_after_a_finite_loss_are_never_called_good(tmp_path, on_nonfinite):
    class Explode(Callback):
        def on_step(self, state):
            if state.total_steps == 4:
                state.optimizer.param_groups[0]["lr"] = float("inf")

    with pytest.raises(FloatingPointError, match=r"The weight .* has NaN or infinite values after epoch 2"):
        fit_armed(small_model(), epochs=3, folder=tmp_path, on_nonfinite=on_nonfinite, callbacks=[Explode()])
    stored = read_checkpoint(list_checkpoints(tmp_path)[0])[1]["model"]
    assert all(torch.isfinite(value).all() for value in stored.values())


def test_a_running_statistic_that_overflows_behind_a_finite_loss_is_found():
    class Huge(nn.Module):
        def forward(self, x):
            return x * 1e25 if self.training else x

    with pytest.raises(FloatingPointError, match=r"The buffer '3.running_var' has NaN or infinite values"):
        fit_armed(small_model(Huge(), nn.BatchNorm1d(8)))


def test_a_gradient_that_overflows_half_precision_whatever_the_scale():
    def root(model, x, y):
        return (model(x) * 0).sum().abs().sqrt()

    with pytest.raises(FloatingPointError, match=r"The term 'gradient' is nan in epoch 14, step 2"):
        fit_armed(small_model(), [root], epochs=20, precision="float16")


def test_a_mask_of_minus_infinity_is_no_fault():
    model = small_model()
    model.register_buffer("mask", torch.full((2,), float("-inf")))
    assert len(fit_armed(model).history) == 2


def test_a_nonfinite_loss_names_the_last_good_checkpoint(make_classifier, digits, tmp_path):
    class Exploding:
        weight, name, calls = 1.0, "exploding", 0

        def __call__(self, model, x, y):
            self.calls += 1
            return model(x).sum() * (float("inf") if self.calls == 6 else 0.0)

    with pytest.raises(FloatingPointError, match=r"'exploding' is .* epoch 2, step 2; .*checkpoint-000000004"):
        fit_into(make_classifier(), digits, tmp_path, [Exploding()])


def test_weights_that_are_not_finite_are_never_stored(make_classifier, digits, tmp_path):
    class Poison(Callback):
        def on_step(self, state):
            if state.total_steps == 6:
                with torch.no_grad():
                    next(state.model.parameters()).view(-1)[0] = float("nan")

    with pytest.raises(FloatingPointError, match=r"checkpoint-000000004"):
        fit_into(make_classifier(), digits, tmp_path, callbacks=[Poison()], checkpoint_every=6)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-000000004.safetensors"]
