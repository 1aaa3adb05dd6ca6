"""One training step: parts of a batch, precision, clipping, the cheap mode."""

import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.penalties.inputs import Share
from art_sensreg.training import Callback
from art_sensreg.training.numerics import micro_batches
from tests.training.helpers import PENALTIES, fit_digits, fit_into


def noisy_seen(classifier, digits, **config):
    """The sizes of the batches that the model sees in training mode."""
    sizes = []
    handle = classifier.model.register_forward_pre_hook(
        lambda module, inputs: sizes.append(len(inputs[0])) if module.training else None
    )
    fit_digits(classifier, digits, epochs=1, **config)
    handle.remove()
    return sizes


def test_the_cheap_mode_computes_fewer_rows(make_classifier, digits):
    full = noisy_seen(make_classifier("cnn-small"), digits)
    cheap = noisy_seen(make_classifier("cnn-small"), digits, penalty_fraction=0.4)
    assert [rows for rows in full if rows > 20] == [100] * 4  # the others are trials
    assert sum(rows for rows in cheap if rows > 20) == 4 * 70


@pytest.mark.parametrize("name", ["mlp", "cnn-small"])
@pytest.mark.parametrize("norm_layer", ["none", "batch"])
def test_the_cheap_mode_is_the_penalty_of_the_first_rows(make_classifier, digits, name, norm_layer):
    model = make_classifier(name, norm_layer=norm_layer).model.double().eval()
    x, y = torch.from_numpy(digits.x_train[:20]).double(), torch.from_numpy(digits.y_train[:20])
    objective = Objective([SensitivityPenalty(scale="relative", probes=2), JacobianPenalty()])
    objective.prepare(model, x)
    probes = Probes(0, torch.device("cpu"))
    cheap, logits = objective(model, x, y, probes.at(3), Share(noisy_rows=8))
    full, _ = objective(model, x[:8], y[:8], probes.at(3))
    for penalty in ("sensitivity", "jacobian"):
        assert cheap[penalty].item() == pytest.approx(full[penalty].item(), rel=1e-9)
    assert torch.allclose(logits, model(x))
    loss = cheap["base"] + cheap["sensitivity"] + 0.1 * cheap["jacobian"]
    assert cheap["loss"].item() == pytest.approx(loss.item(), rel=1e-12)


def test_a_batch_computed_in_parts_has_the_gradient_of_the_full_batch(make_classifier, digits, monkeypatch):
    def trained(numbers, **config):
        monkeypatch.setattr("art_sensreg.training.steps._CACHED_NUMBERS", numbers)
        return fit_digits(make_classifier("cnn-small"), digits, **config)

    for fraction in (1.0, 0.6):
        whole = trained(10**9, penalty_fraction=fraction)
        parts = trained(1, penalty_fraction=fraction)  # the least: 16 rows
        for a, b in zip(whole.history, parts.history, strict=True):
            for name in ("loss", "base", "sensitivity", "jacobian", "accuracy"):
                assert a[name] == pytest.approx(b[name], rel=2e-3), name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_low_precision(make_classifier, digits, precision):
    classifier = make_classifier()
    trainer = fit_digits(classifier, digits, n=600, epochs=8, precision=precision, max_grad_norm=5.0)
    assert trainer.history[-1]["accuracy"] > 0.8
    assert all(parameter.dtype == torch.float32 for parameter in classifier.model.parameters())


@pytest.mark.slow
def test_a_compiled_step_trains_the_same(make_classifier, digits):
    plain = fit_digits(make_classifier("cnn-small"), digits, epochs=2)
    compiled = fit_digits(make_classifier("cnn-small"), digits, epochs=2, compile=True)
    for a, b in zip(plain.history, compiled.history, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


class Hardest(nn.CrossEntropyLoss):
    """The mean over the hardest tenth of a batch: not that of its parts."""

    def forward(self, logits, y):
        losses = nn.functional.cross_entropy(logits, y, reduction="none")
        return losses.topk(max(len(losses) // 10, 1)).values.mean()


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def test_models_that_couple_examples_are_not_computed_in_parts(digits):
    x = torch.from_numpy(digits.x_train[:8])

    def examples_at_once(model, loss=None):
        objective = Objective(PENALTIES, loss)
        objective.prepare(model, x)
        return micro_batches.examples_at_once(objective, 1000)

    layers = [nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 10)]
    assert examples_at_once(nn.Sequential(*layers)) == 50
    assert examples_at_once(nn.Sequential(*layers), Hardest()) is None
    assert examples_at_once(nn.Sequential(*layers, Centred())) is None
    assert examples_at_once(nn.Sequential(*layers, nn.Dropout())) is None
    assert examples_at_once(nn.Sequential(*layers, nn.BatchNorm1d(10))) is None


def test_layers_may_be_unfrozen_on_the_way(make_classifier, digits):
    classifier = make_classifier()
    first = next(classifier.model.parameters())
    first.requires_grad_(False)
    before = first.detach().clone()

    class Unfreeze(Callback):
        def on_epoch(self, state):
            assert torch.equal(first, before)
            first.requires_grad_(True)
            state.stop = state.epoch == 2 or state.stop

    class Check(Unfreeze):
        def on_epoch(self, state):
            if state.epoch == 1:
                super().on_epoch(state)

    fit_into(classifier, digits, penalties=[JacobianPenalty(estimator="projection")], callbacks=[Check()])
    assert not torch.equal(first, before)


def test_gradient_clipping(make_classifier, digits):
    classifier = make_classifier()
    norms = []
    classifier.optimizer.register_step_pre_hook(
        lambda *_: norms.append(torch.cat([p.grad.flatten() for p in classifier.model.parameters()]).norm().item())
    )
    trainer = SensRegTrainer(classifier, [], TrainingConfig(max_grad_norm=0.1))
    trainer.fit(digits.x_train[:200], digits.y_train[:200], nb_epochs=1, verbose=False)
    assert norms == pytest.approx([0.1] * len(norms), rel=1e-3)
