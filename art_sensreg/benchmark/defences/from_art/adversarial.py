"""ART's adversarial trainers: as shipped, and fixed where a defect of ART 1.20.1 changes the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent
from art.defences.trainer import (
    AdversarialTrainer,
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from torch.optim.lr_scheduler import _LRScheduler

from art_sensreg.benchmark.defences.claims import robust_accuracy
from art_sensreg.benchmark.defences.from_art.fbf import check_rate, train_fbf, train_fbf_fixed
from art_sensreg.benchmark.defences.optimization import one_cycle
from art_sensreg.benchmark.defences.spec import Defence, Options, within
from art_sensreg.benchmark.defences.train_spec import TrainingSpec

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
    soft labels, cross-entropy is KL plus a constant, and its gradient is KL's; not so where it smooths them again.
    """

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        clean = torch.softmax(torch.from_numpy(self.estimator.predict(x)), dim=1).numpy()
        loss = self.estimator.loss
        smoothing, loss.label_smoothing = loss.label_smoothing, 0.0
        try:
            adversarial: np.ndarray = super().generate(x, y=clean, **kwargs)
        finally:
            loss.label_smoothing = smoothing
        return adversarial


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
        check=check_rate,
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
        check=check_rate,
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
