"""ART's Fast Is Better than Free: as shipped, and fixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from art.config import ART_NUMPY_DTYPE
from art.defences.trainer import AdversarialTrainerFBFPyTorch
from art.estimators.classification import PyTorchClassifier
from art.utils import random_sphere
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.defences.spec import Options, within
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec

# The peak of FBF's schedule.
_FBF_RATE = 0.21
# What it shortens gradients to.
_FBF_NORM = 0.5
SGD_WITH_DECAY = OptimizationSettings(optimizer="sgd", momentum=0.9, weight_decay=5e-4)


class RepairedFBF(AdversarialTrainerFBFPyTorch):
    """
    Fast is better than free (Wong et al. 2020, arXiv 2001.03994) with ART's defects fixed.

    As shipped it never enters training mode, overwrites the learning rate with a fixed schedule that peaks at 0.21
    whatever the optimizer, and computes the accuracy from the first layer of an `nn.Sequential`. The scheduler is
    stepped after every batch.

    Training on one-step examples overfits catastrophically at some seeds and not at others: accuracy under the one-step
    attack stays while that under PGD falls. How often depends on the optimizer: with Adam, at the rate of the suite's
    other trainers, it was more often than with FBF's own SGD.

    :param classifier: As for ART's class.
    :param eps: As for ART's class.
    :param scheduler: Stepped after every batch; None: the learning rate stays as it is.
    :param max_grad_norm: Gradients of all weights that are longer are shortened to this norm.
    """

    def __init__(
        self,
        classifier: PyTorchClassifier,
        eps: float,
        scheduler: LRScheduler | None,
        max_grad_norm: float = _FBF_NORM,
    ) -> None:
        super().__init__(classifier, eps=eps)
        self._scheduler, self._max_grad_norm = scheduler, max_grad_norm

    def _batch_process(self, x_batch: np.ndarray, y_batch: np.ndarray, l_r: float) -> tuple[float, float, float]:
        classifier = self._classifier
        n, low_high = len(x_batch), classifier.clip_values
        start = random_sphere(n, x_batch[0].size, self._eps, np.inf).reshape(x_batch.shape).astype(ART_NUMPY_DTYPE)
        gradient = classifier.loss_gradient(x_batch + start, y_batch)
        delta = np.clip(start + 1.25 * self._eps * np.sign(gradient), -self._eps, self._eps)
        x_adv = np.clip(x_batch + delta, *low_high) if low_high is not None else x_batch + delta
        x_ready, y_ready = classifier._apply_preprocessing(x_adv, y_batch, fit=True)
        targets = torch.as_tensor(classifier.reduce_labels(y_ready)).to(classifier.device)
        classifier.model.train()
        logits = classifier.model(torch.as_tensor(x_ready).to(classifier.device))
        loss = classifier.loss(logits, targets)
        classifier.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(classifier.model.parameters(), self._max_grad_norm)
        classifier.optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()
        return loss.item() * n, float((logits.argmax(1) == targets).sum()), n


def train_fbf(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerFBFPyTorch` as shipped, with SGD: its own schedule up to 0.21 is one for SGD."""
    asked, spec = spec.optimization, _at_rate(spec, options)
    if options.get("learning_rate") is not None and asked.schedule is None:
        raise NotApplicable("ART's FBF replaces every learning rate by those of its own schedule; give a schedule too")
    if asked.optimizer not in (None, "sgd") and asked.schedule is None:
        raise NotApplicable(f"ART's FBF sets rates up to 0.21, which {asked.optimizer} cannot take; give a schedule")
    if (asked.max_grad_norm or 0.0) > _FBF_NORM:
        raise NotApplicable(f"ART's FBF shortens gradients to {_FBF_NORM}, and so never lets them be longer")
    classifier = spec.art_classifier()
    parameters, rate = classifier.model.parameters(), _own_rate(asked, options)
    classifier._optimizer = spec.optimizer(parameters, rate, own=SGD_WITH_DECAY)
    return spec.fit(AdversarialTrainerFBFPyTorch(classifier, eps=spec.eps))


def train_fbf_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """FBF in training mode, with its own optimizer, peak and schedule unless others are asked for."""
    asked, spec = spec.optimization, _at_rate(spec, options)
    classifier = spec.art_classifier()
    own = asked.optimizer in (None, "sgd") and asked.schedule is None
    rate = _FBF_RATE if own and options.get("learning_rate") is None else _own_rate(asked, options)
    parameters = classifier.model.parameters()
    classifier._optimizer = spec.optimizer(parameters, rate, own=SGD_WITH_DECAY)

    def share_of_peak(step: int) -> float:
        return float(np.interp((step + 1) / spec.steps, [0, 0.4, 1], [0, 1, 0]))

    scheduler = LambdaLR(classifier.optimizer, share_of_peak) if own else spec.one_cycle(classifier)
    return spec.fit(RepairedFBF(classifier, spec.eps, scheduler, asked.max_grad_norm or _FBF_NORM))


def _at_rate(spec: TrainingSpec, options: Options) -> TrainingSpec:
    """At the learning rate that was given for this row alone, if one was."""
    rate = options.get("learning_rate")
    return spec if rate is None else replace(spec, learning_rate=rate)


def _own_rate(asked: OptimizationSettings, options: Options) -> float | None:
    """The peak for FBF's own SGD, also on another schedule; None: that of the run or of this row."""
    return _FBF_RATE if asked.optimizer is None and options.get("learning_rate") is None else None


def check_rate(options: Options) -> None:
    """ValueError or TypeError if the rate that was given for this row is none."""
    if options["learning_rate"] is not None:
        within(above_zero=("learning_rate",))(options)
