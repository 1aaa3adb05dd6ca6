"""ART's adversarial trainers: what is repaired, and in which norms they train."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from torch.nn.functional import kl_div, log_softmax
from torch.optim.lr_scheduler import _LRScheduler

from art_sensreg.benchmark.defences import DEFENCES, NotApplicable
from art_sensreg.benchmark.defences.from_art.adversarial import (
    ADVERSARIAL,
    ArtOneCycle,
    KLProjectedGradientDescent,
)
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import accuracy, small_spec, trained

BY_NAME = {defence.name: defence for defence in ADVERSARIAL}


@pytest.mark.parametrize("name", BY_NAME)
def test_learns_on_adversarial_images(digits: Dataset, name: str, capsys: Any) -> None:
    spec = small_spec(digits, n=300, epochs=4, eps=0.03)
    options = {**BY_NAME[name].options, **({"max_iter": 2} if "max_iter" in BY_NAME[name].options else {})}
    assert accuracy(spec, trained(BY_NAME[name].train, spec, options).model) > 0.3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["art-madry", "art-fbf", "art-fbf-fixed"])
def test_some_train_in_linf_alone(digits: Dataset, name: str) -> None:
    with pytest.raises(NotApplicable, match=r"L-inf.* only; this run is in l2"):
        DEFENCES[name].train(small_spec(digits, norm="l2"), DEFENCES[name].options)


def test_the_attack_of_trades_maximises_the_divergence_from_the_clean_prediction(digits: Dataset) -> None:
    spec = small_spec(digits)
    classifier = trained(BY_NAME["art-adversarial"].train, spec, {"ratio": 0.5})
    x = digits.x_test[:60]
    right, wrong = (np.eye(10, dtype=np.float32)[(digits.y_test[:60] + shift) % 10] for shift in (0, 1))
    settings = {"eps": 0.1, "eps_step": 0.03, "max_iter": 10, "verbose": False}

    def divergence(images: np.ndarray) -> float:
        before, after = (torch.from_numpy(classifier.predict(some)) for some in (x, images))
        return kl_div(log_softmax(after, 1), log_softmax(before, 1), reduction="batchmean", log_target=True).item()

    def attacked(kind: type[ProjectedGradientDescent], labels: np.ndarray) -> float:
        return divergence(kind(classifier, **settings).generate(x, labels))

    noise = np.random.default_rng(0).choice([-0.1, 0.1], x.shape).astype(np.float32)
    found = attacked(KLProjectedGradientDescent, right)
    assert found > 3 * divergence(np.clip(x + noise, 0, 1))
    # What it maximises has no part in the labels; the loss on them, which ART's trainer maximises, depends on them.
    assert attacked(KLProjectedGradientDescent, wrong) == pytest.approx(found)
    assert found > 1.5 * attacked(ProjectedGradientDescent, wrong)
    classifier.loss.label_smoothing = 0.3  # of the training, which the attack has no part in
    assert attacked(KLProjectedGradientDescent, right) == pytest.approx(found)
    assert classifier.loss.label_smoothing == 0.3


def test_the_schedule_is_one_that_art_accepts_and_ends_low() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = ArtOneCycle(optimizer, 0.1, epochs=10)
    assert isinstance(schedule, _LRScheduler)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.1, rel=0.05)
    assert 0 < rates[-1] < 0.01
