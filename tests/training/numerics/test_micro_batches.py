"""Gradient accumulation: k batches a step are one batch k times as large."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import FGSMRS, PGD, TRADES
from art_sensreg.penalties.forward.row_coupling import LOOK
from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of
from tests.training.helpers import Arm, X, Y, classifier_of, close, small_model


def run(batch_size, accumulate, penalties=(), n=24, adversary=None, **options):
    fit_options = {name: options.pop(name) for name in ("checkpoint_dir", "resume") if name in options}
    make_scheduler = options.pop("scheduler", None)
    model, loss = options.pop("model", None) or small_model(), options.pop("loss", None)
    labels = options.pop("labels", Y)
    classifier = classifier_of(model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9), loss)
    callbacks = [Arm(), *options.pop("callbacks", ())]
    sizes = {"batch_size": batch_size, "accumulate": accumulate}
    config = TrainingConfig(**{"seed": 0, **sizes, **options, "callbacks": callbacks})
    trainer = SensRegTrainer(classifier, list(penalties), config, adversary)
    scheduler = make_scheduler(classifier.optimizer) if make_scheduler else None
    trainer.fit(X[:n], labels[:n], nb_epochs=3, scheduler=scheduler, verbose=False, **fit_options)
    return trainer


SETTINGS = {
    "plain": {},
    "an incomplete last group": {"n": 21},
    "a last group of one row": {"n": 17},
    "the last one left out": {"n": 21, "drop_last": True},
    "SR and JR": {"penalties": [SensitivityPenalty(), JacobianPenalty()]},
    "a range of sigmas, three probes": {"penalties": [SensitivityPenalty(sigma=(0.1, 0.5), probes=3)], "n": 21},
    "double backward": {"penalties": [JacobianPenalty(estimator="projection", probes=2)]},
    "fewer noisy rows": {"penalties": [SensitivityPenalty(), JacobianPenalty()], "penalty_fraction": 0.4, "n": 21},
    "few noisy rows": {"penalties": [SensitivityPenalty()], "penalty_fraction": 0.1},
    "fewer noisy rows of gradients": {
        "penalties": [SensitivityPenalty(), JacobianPenalty(estimator="exact")],
        "penalty_fraction": 0.4,
        "n": 21,
    },
    "fewer pairs beside gradients": {
        "penalties": [SensitivityPenalty(), JacobianPenalty(estimator="exact")],
        "adversary": PGD(eps=0.05, max_iter=2, pair="adversarial"),
        "penalty_fraction": 0.4,
        "on_catastrophic_overfitting": "ignore",
    },
    "micro-batches without a label": {
        "loss": nn.CrossEntropyLoss(ignore_index=0),
        "labels": np.array([0, 0, 0, 0, 1, 2, 1, 2] * 3),
    },
    "a penalty of one's own": {"penalties": [lambda model, x, y: model(x).pow(2).mean()], "n": 21},
    "fewer adversarial pairs": {
        "penalties": [SensitivityPenalty(), JacobianPenalty()],
        "adversary": PGD(eps=0.05, max_iter=2, pair="adversarial"),
        "penalty_fraction": 0.4,
        "n": 21,
        "on_catastrophic_overfitting": "ignore",
    },
    "an adversary": {"penalties": [SensitivityPenalty()], "adversary": FGSMRS(eps=0.1)},
    "a sum": {"loss": nn.CrossEntropyLoss(reduction="sum"), "max_grad_norm": 1.0},
    "class weights": {"loss": nn.CrossEntropyLoss(torch.tensor([1.0, 8.0, 0.2])), "n": 21},
    "an ignored class": {"loss": nn.CrossEntropyLoss(ignore_index=0), "penalties": [SensitivityPenalty()]},
    "a sum that does not say so": {
        "loss": lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="sum"),
        "max_grad_norm": 1.0,
        "n": 21,
    },
    "a sum of adversarial images": {
        "loss": nn.CrossEntropyLoss(reduction="sum"),
        "adversary": PGD(eps=0.05, max_iter=2, clean_fraction=0.5),
        "max_grad_norm": 0.2,
        "n": 21,
        "on_catastrophic_overfitting": "ignore",
    },
    "class weights of adversarial images": {
        "loss": nn.CrossEntropyLoss(torch.tensor([1.0, 8.0, 0.2])),
        "adversary": PGD(eps=0.05, max_iter=2),
        "n": 21,
        "on_catastrophic_overfitting": "ignore",
    },
    "clipping, average, schedule": {
        "max_grad_norm": 0.2,
        "ema": 0.7,
        "penalty_warmup": 0.5,
        "penalties": [SensitivityPenalty()],
        "scheduler": lambda o: schedulers.OneCycleLR(o, 0.5, total_steps=10),
        "n": 21,
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_a_larger_batch(name):
    small, large = run(4, 2, **SETTINGS[name]), run(8, 1, **SETTINGS[name])
    assert close(weights_of(small.classifier), weights_of(large.classifier), atol=2e-5)
    for a, b in zip(small.history, large.history, strict=True):
        for key in set(a) - {"seconds"}:
            assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-5), key


class Noisy(nn.Module):
    """Draws while it is computed, too little to matter."""

    def forward(self, x):
        return x + 1e-6 * torch.randn_like(x)


def test_penalties_that_use_the_whole_batch_use_every_micro_batch():
    whole, part = (
        run(2, 4, [SensitivityPenalty()], model=small_model(Noisy()), penalty_fraction=fraction)
        for fraction in (1.0, 0.25)
    )
    assert same_weights(weights_of(whole.classifier), weights_of(part.classifier))
    assert [record["sensitivity"] for record in whole.history] == [record["sensitivity"] for record in part.history]


def test_statistics_of_batch_norm_are_those_of_clean_images_in_every_micro_batch():
    means = []
    for adversary in (None, PGD(eps=0.5, max_iter=2)):
        norm = nn.BatchNorm1d(4)
        model = nn.Sequential(norm, *small_model())
        run(4, 2, [SensitivityPenalty(weight=0.01)], model=model, adversary=adversary, penalty_fraction=0.25,
            on_catastrophic_overfitting="ignore")  # fmt: skip
        means.append(norm.running_mean)
    torch.testing.assert_close(*means)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(reduction="sum"), nn.CrossEntropyLoss(torch.ones(3))])
def test_what_cannot_be_divided_is_refused(loss):
    with pytest.raises(ValueError, match=r"`accumulate` divides batches, and TRADES adds a mean over the examples to"):
        run(4, 2, loss=loss, adversary=TRADES(eps=0.1))
    run(8, 1, loss=loss, adversary=TRADES(eps=0.1))


def test_no_more_examples_at_once_than_a_batch_has():
    seen = []

    class Look(nn.Module):
        step = 0

        def forward(self, x):
            if self.step and len(x) != LOOK // 2:  # at the start of an epoch a model that counts is looked at
                seen.append(len(x))
            return x

    run(4, 3, model=small_model(Look()), n=22)
    assert seen == 3 * [4, 4, 4, 4, 3, 3]


def test_a_micro_batch_has_at_least_two_examples_for_batch_norm():
    assert len(run(2, 3, model=small_model(nn.BatchNorm1d(8)), n=21).history) == 3


def test_steps_are_those_of_the_optimizer(tmp_path):
    class Count(Callback):
        def __init__(self):
            self.steps = []

        def on_step(self, state):
            self.steps.append((state.epoch, state.step, state.total_steps))
            state.stop = state.total_steps == 4

    count, whole = Count(), run(4, 2, [SensitivityPenalty()], n=21)
    run(4, 2, [SensitivityPenalty()], n=21, callbacks=[count], checkpoint_dir=tmp_path)
    assert count.steps == [(1, 1, 1), (1, 2, 2), (1, 3, 3), (2, 1, 4)]
    resumed = run(4, 2, [SensitivityPenalty()], n=21, checkpoint_dir=tmp_path, resume=True)
    assert same_weights(weights_of(whole.classifier), weights_of(resumed.classifier))


class PoisonPart(nn.Module):
    """Makes one micro-batch of the second step NaN."""

    def __init__(self, when):
        super().__init__()
        self.when, self.step, self.calls = when, 0, 0

    def forward(self, x):
        if not self.training or self.step != 2:
            return x
        self.calls += 1
        return x * float("nan") if self.calls == self.when else x


@pytest.mark.parametrize("when", [1, 2])
def test_one_non_finite_micro_batch_skips_the_entire_step(when):
    states = []

    class Record(Callback):
        def on_step(self, state):
            states.append([value.clone() for value in state.model.state_dict().values()])

    model = small_model(PoisonPart(when), nn.BatchNorm1d(8))
    trainer = run(4, 2, model=model, on_nonfinite="skip", callbacks=[Record()])
    assert trainer.history[0]["skipped"] == 1
    assert same_weights(states[0], states[1])
    assert not same_weights(states[1], states[2])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_batches_of_a_loader_are_joined():
    def loader(batch_size):
        data = TensorDataset(torch.from_numpy(X[:22]), torch.from_numpy(Y[:22]))
        return DataLoader(data, batch_size=batch_size)

    results = []
    for batch_size, accumulate in ((4, 2), (8, 1)):
        model = small_model()
        trainer = SensRegTrainer(
            classifier_of(model), [SensitivityPenalty()], TrainingConfig(seed=0, accumulate=accumulate)
        )
        trainer.fit_generator(loader(batch_size), nb_epochs=2, verbose=False)
        results.append(weights_of(trainer.classifier))
    assert close(*results)


def test_half_precision_accumulates():
    small, large = (run(*sizes, precision="bfloat16") for sizes in ((4, 2), (8, 1)))
    assert close(weights_of(small.classifier), weights_of(large.classifier), atol=0.02)
    assert np.isfinite(run(4, 2, precision="float16").history[-1]["loss"])


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)]
)
def test_wrong_numbers(value, error):
    with pytest.raises(error, match=r"`accumulate` is .*; expected a whole number of at least 1"):
        TrainingConfig(accumulate=value)
