"""ART's adversarial trainers: as shipped, and fixed where a defect of ART 1.20.1 changes the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.config import ART_NUMPY_DTYPE
from art.defences.trainer import (
    AdversarialTrainer,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerFBFPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from art.utils import random_sphere
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, _LRScheduler

from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.defences.claims import robust_accuracy
from art_sensreg.benchmark.defences.optimization import one_cycle
from art_sensreg.benchmark.defences.spec import Defence, Options, within
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec

# The peak of FBF's schedule.
_FBF_RATE = 0.21
LINF_CLAIM = robust_accuracy("white-box evasion within eps in L-inf")
_ANY_NORM = robust_accuracy("white-box evasion within eps in the norm it trains in")


class ArtOneCycle(_LRScheduler):
    """
    A one-cycle schedule that is stepped once per epoch, and that TRADES and AWP accept: ART checks for torch's retired
    `_LRScheduler` class, of which no scheduler in torch 2 is an instance.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_lr: float, epochs: int) -> None:
        # One step more than there are epochs: the last epoch would otherwise train at a rate of nearly 0.
        self._inner = one_cycle(optimizer, max_lr, max(epochs + 1, 3))

    def step(self, epoch: int | None = None) -> None:
        self._inner.step()


class KLProjectedGradientDescent(ProjectedGradientDescent):
    """
    PGD on the divergence from the clean prediction, as TRADES (arXiv 1901.08573, algorithm 1) maximises it.

    ART's TRADES maximises the loss of whatever attack it is given, on the true labels. Given the clean probabilities as
    soft labels, cross-entropy is KL plus a constant, and its gradient is KL's.
    """

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        clean = torch.softmax(torch.from_numpy(self.estimator.predict(x)), dim=1).numpy()
        adversarial: np.ndarray = super().generate(x, y=clean, **kwargs)
        return adversarial


class RepairedFBF(AdversarialTrainerFBFPyTorch):
    """
    Fast is better than free (Wong et al. 2020, arXiv 2001.03994) with ART's defects fixed.

    As shipped it never enters training mode, overwrites the learning rate with a fixed schedule that peaks at 0.21
    whatever the optimizer, and computes the accuracy from the first layer of an `nn.Sequential`. The scheduler is
    stepped after every batch.

    Training on one-step examples overfits catastrophically at some seeds and not at others: accuracy under the one-step
    attack stays while that under PGD falls. How often depends on the optimizer: with Adam, at the rate of the suite's
    other trainers, it was more often than with FBF's own SGD.
    """

    def __init__(self, classifier: PyTorchClassifier, eps: float, scheduler: LRScheduler | None) -> None:
        super().__init__(classifier, eps=eps)
        self._scheduler = scheduler

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
        torch.nn.utils.clip_grad_norm_(classifier.model.parameters(), 0.5)
        classifier.optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()
        return loss.item() * n, float((logits.argmax(1) == targets).sum()), n


class WatchedBatches:
    """
    A part of a trainer that says when a batch begins, and when it is done. ART's AWP and OAAT step from perturbed
    weights, which no average should see, and OAAT replaces its optimizer on the way.
    """

    before_batch: Callable[[], None] = staticmethod(lambda: None)
    after_batch: Callable[[], None] = staticmethod(lambda: None)

    def _batch_process(self, *batch: Any) -> tuple[float, float, float]:
        self.before_batch()
        result: tuple[float, float, float] = super()._batch_process(*batch)  # type: ignore[misc]
        self.after_batch()
        return result


class WatchedAWP(WatchedBatches, AdversarialTrainerAWPPyTorch):
    """
    AWP as ART has it.

    | Paper link: https://arxiv.org/abs/2004.05884
    """


def fit_watched(spec: TrainingSpec, trainer: Any, **kwargs: Any) -> PyTorchClassifier:
    """As `TrainingSpec.fit`, with weights that are averaged between the batches of a trainer."""
    classifier = trainer.get_classifier()
    with spec.hooked(classifier.optimizer, classifier.model, at_steps=False) as hooks, spec.images() as x:
        trainer.before_batch = lambda: hooks.attach(classifier.optimizer)
        trainer.after_batch = hooks.average
        trainer.fit(x, spec.one_hot, batch_size=spec.batch_size, nb_epochs=spec.epochs, **kwargs)
    return classifier


def _attack(
    classifier: PyTorchClassifier,
    spec: TrainingSpec,
    options: Options,
    kind: type[ProjectedGradientDescent] = ProjectedGradientDescent,
) -> ProjectedGradientDescent:
    return kind(
        classifier,
        norm=spec.art_norm,
        eps=spec.eps,
        eps_step=2.5 * spec.eps / options["max_iter"],
        max_iter=options["max_iter"],
        num_random_init=1,
        batch_size=spec.batch_size,
        verbose=False,
    )


def art_one_cycle(spec: TrainingSpec, optimizer: torch.optim.Optimizer) -> ArtOneCycle | None:
    """None if the run asks for a schedule, which `TrainingSpec.hooked` follows."""
    if spec.optimization.schedule is not None:
        return None
    return ArtOneCycle(optimizer, spec.learning_rate, spec.epochs)


def _schedule(spec: TrainingSpec, options: Options, classifier: PyTorchClassifier) -> ArtOneCycle | None:
    """None where a constant learning rate is an option."""
    return None if "learning_rate" in options else art_one_cycle(spec, classifier.optimizer)


def train_adversarial(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainer` with FGM on half of each batch. It steps the scheduler after every batch."""
    classifier = spec.art_classifier()
    attack = FastGradientMethod(classifier, norm=spec.art_norm, eps=spec.eps, batch_size=spec.batch_size)
    trainer = AdversarialTrainer(classifier, attack, ratio=options["ratio"])
    return spec.fit(trainer, scheduler=spec.one_cycle(classifier))


def train_madry(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerMadryPGD`. It steps the scheduler after every batch."""
    classifier = spec.art_classifier()
    steps = options["max_iter"]
    trainer = AdversarialTrainerMadryPGD(classifier, eps=spec.eps, eps_step=2.5 * spec.eps / steps, max_iter=steps)
    trainer.attack.set_params(verbose=False)
    return spec.fit(trainer, scheduler=spec.one_cycle(classifier))


def train_trades(
    spec: TrainingSpec, options: Options, attack: type[ProjectedGradientDescent] = ProjectedGradientDescent
) -> PyTorchClassifier:
    """`AdversarialTrainerTRADESPyTorch`: as shipped PGD on the true labels, with a constant learning rate."""
    classifier = spec.art_classifier(learning_rate=options.get("learning_rate"))
    trainer = AdversarialTrainerTRADESPyTorch(classifier, _attack(classifier, spec, options, attack), options["beta"])
    return spec.fit(trainer, scheduler=_schedule(spec, options, classifier))


def train_fbf(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerFBFPyTorch` as shipped, with SGD: its own schedule up to 0.21 is one for SGD."""
    asked, spec = spec.optimization, _at_rate(spec, options)
    if options.get("learning_rate") is not None and asked.schedule is None:
        raise NotApplicable("ART's FBF replaces every learning rate by those of its own schedule; give a schedule too")
    if asked.optimizer not in (None, "sgd") and asked.schedule is None:
        raise NotApplicable(f"ART's FBF sets rates up to 0.21, which {asked.optimizer} cannot take; give a schedule")
    classifier = spec.art_classifier()
    classifier._optimizer = spec.optimizer(classifier.model.parameters(), own=SGD_WITH_DECAY)
    return spec.fit(AdversarialTrainerFBFPyTorch(classifier, eps=spec.eps))


def train_fbf_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """FBF in training mode, with its own optimizer, peak and schedule unless others are asked for."""
    asked, spec = spec.optimization, _at_rate(spec, options)
    classifier = spec.art_classifier()
    own = asked.optimizer in (None, "sgd") and asked.schedule is None
    rate = _FBF_RATE if own and options.get("learning_rate") is None else None
    parameters = classifier.model.parameters()
    classifier._optimizer = spec.optimizer(parameters, rate, own=SGD_WITH_DECAY)

    def share_of_peak(step: int) -> float:
        return float(np.interp((step + 1) / spec.steps, [0, 0.4, 1], [0, 1, 0]))

    scheduler = LambdaLR(classifier.optimizer, share_of_peak) if own else spec.one_cycle(classifier)
    return spec.fit(RepairedFBF(classifier, spec.eps, scheduler))


def _at_rate(spec: TrainingSpec, options: Options) -> TrainingSpec:
    """At the learning rate that was given for this row alone, if one was."""
    rate = options.get("learning_rate")
    return spec if rate is None else replace(spec, learning_rate=rate)


def _check_rate(options: Options) -> None:
    if options["learning_rate"] is not None:
        within(above_zero=("learning_rate",))(options)


def train_awp(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerAWPPyTorch` in PGD mode: as shipped with a constant learning rate."""
    classifier = spec.art_classifier(learning_rate=options.get("learning_rate"))
    trainer = WatchedAWP(
        classifier,
        spec.art_classifier(sgd=options["proxy_learning_rate"]),
        _attack(classifier, spec, options),
        mode="PGD",
        gamma=options["gamma"],
        beta=6.0,
        warmup=0,
    )
    return fit_watched(spec, trainer, scheduler=_schedule(spec, options, classifier))


SGD_WITH_DECAY = OptimizationSettings(optimizer="sgd", momentum=0.9, weight_decay=5e-4)
_PGD = {"max_iter": 7}
_TRADES_PAPER = "Zhang et al. 2019, arXiv 1901.08573"
_FBF_PAPER = "Wong et al. 2020, arXiv 2001.03994"
_AWP_PAPER = "Wu et al. 2020, arXiv 2004.05884"
_FBF_REASON = "ART's FBF perturbs in L-inf only"

ADVERSARIAL = (
    Defence(
        "art-adversarial",
        "ART AdversarialTrainer, FGM on half of each batch",
        "Goodfellow et al. 2015, arXiv 1412.6572; Tramer et al. 2018, arXiv 1705.07204",
        {"ratio": 0.5},
        _ANY_NORM,
        training=train_adversarial,
        ours=False,
        check=within(at_most_one=("ratio",)),
    ),
    Defence(
        "art-madry",
        "ART AdversarialTrainerMadryPGD",
        "Madry et al. 2018, arXiv 1706.06083",
        _PGD,
        LINF_CLAIM,
        training=train_madry,
        norms=("linf",),
        norms_reason="ART's MadryPGD builds an L-inf attack only",
        ours=False,
    ),
    Defence(
        "art-trades",
        "ART AdversarialTrainerTRADES as shipped: cross-entropy attack, no schedule",
        _TRADES_PAPER,
        {**_PGD, "beta": 6.0, "learning_rate": 1e-3},
        _ANY_NORM,
        training=train_trades,
        ours=False,
        check=within(above_zero=("learning_rate",)),
    ),
    Defence(
        "art-trades-fixed",
        "ART AdversarialTrainerTRADES, fixed",
        _TRADES_PAPER,
        {**_PGD, "beta": 6.0},
        _ANY_NORM,
        training=partial(train_trades, attack=KLProjectedGradientDescent),
        repaired="the inner attack maximises KL as in the paper; a torch 2 scheduler is accepted",
    ),
    Defence(
        "art-fbf",
        "ART AdversarialTrainerFBF as shipped (SGD, its own schedule)",
        _FBF_PAPER,
        {"learning_rate": None},
        claim=LINF_CLAIM,
        training=train_fbf,
        check=_check_rate,
        norms=("linf",),
        norms_reason=_FBF_REASON,
        ours=False,
    ),
    Defence(
        "art-fbf-fixed",
        "ART AdversarialTrainerFBF, fixed",
        _FBF_PAPER,
        {"learning_rate": None},
        claim=LINF_CLAIM,
        training=train_fbf_fixed,
        check=_check_rate,
        norms=("linf",),
        norms_reason=_FBF_REASON,
        repaired="it trains in training mode; optimizer and schedule are FBF's own, on which its robustness depends",
    ),
    Defence(
        "art-awp",
        "ART AdversarialTrainerAWP as shipped (PGD mode, no schedule)",
        _AWP_PAPER,
        {**_PGD, "gamma": 0.005, "proxy_learning_rate": 0.01, "learning_rate": 1e-3},
        _ANY_NORM,
        training=train_awp,
        ours=False,
        check=within(above_zero=("learning_rate", "proxy_learning_rate")),
    ),
    Defence(
        "art-awp-fixed",
        "ART AdversarialTrainerAWP, fixed",
        _AWP_PAPER,
        {**_PGD, "gamma": 0.005, "proxy_learning_rate": 0.01},
        _ANY_NORM,
        training=train_awp,
        repaired="a torch 2 scheduler is accepted",
        check=within(above_zero=("proxy_learning_rate",)),
    ),
)
