"""
ART's interval bound propagation (Gowal et al. 2018, arXiv 1810.12715): certified training and certificate.

Claim: certified accuracy, a bound on the error under every perturbation within L-inf eps. Bounds are of float32, not
rounded outwards.

As shipped in ART 1.20.1 the certified and the plain part of the loss are of different images, and both schedules rise
from the start over 0.3 of the epochs, which ends in a constant prediction after 12 epochs on the digits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from art.defences.trainer import AdversarialTrainerCertifiedIBPPyTorch
from art.defences.trainer.ibp_certified_trainer_pytorch import DefaultLinearScheduler
from art.estimators.certification.interval import PyTorchIBPClassifier
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.from_art.certifiers import (
    convert,
    images_for,
    layers_of,
    sizes_of,
    train_certifier,
)
from art_sensreg.benchmark.defences.spec import Certificate, Defence, Options, within
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec

CERTIFIED_CLAIM = Claim(metric="certified_accuracy", threat="any evasion within eps in L-inf, provably")
OWN_LOSS = {"label_smoothing": "ART computes the certified loss by a cross-entropy of its own"}

# Eps and the weight of the certified loss rise to the training eps and `final_weight` over `ramp` of the epochs, after
# `warmup` of them. `least_steps`: batches are made smaller until there are so many steps.
IBP_OPTIONS: Options = {"final_weight": 0.5, "warmup": 0.0, "ramp": 0.3, "least_steps": 1}
IBP_FIXED_OPTIONS: Options = {"final_weight": 0.5, "warmup": 0.2, "ramp": 0.7, "least_steps": 1000}

_LARGEST_UNROLLED = 10_000_000


def rising(spec: TrainingSpec, options: Options, final: float) -> DefaultLinearScheduler:
    """A schedule that ART's trainer steps before each epoch."""
    ramp = max(1, int(options["ramp"] * spec.epochs))
    return DefaultLinearScheduler(final / ramp, final_val=final, warmup=int(options["warmup"] * spec.epochs))


def _train_ibp(spec: TrainingSpec, options: Options, convolved: bool) -> PyTorchClassifier:
    classifier = spec.art_classifier()
    certifier = convert(spec, PyTorchIBPClassifier, classifier.model, convolved, trained=True)
    trainer = AdversarialTrainerCertifiedIBPPyTorch(
        certifier,
        bound=spec.eps,
        certification_schedule=rising(spec, options, spec.eps),
        loss_weighting_schedule=rising(spec, options, options["final_weight"]),
    )
    images = len(spec.dataset.x_train)
    batch_size = min(spec.batch_size, max(8, images * spec.epochs // options["least_steps"]))
    train_certifier(spec, trainer, certifier, classifier.model, batch_size=batch_size, limits=[0.0, 1.0])
    return classifier


def train_ibp(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerCertifiedIBPPyTorch` as shipped, with convolutions unrolled into dense matrices."""
    layers = layers_of(spec.new_model())
    sizes = sizes_of(spec, layers)
    unrolled = sum(a * b for a, b, layer in zip(sizes, sizes[1:], layers, strict=False) if isinstance(layer, nn.Conv2d))
    if unrolled > _LARGEST_UNROLLED:
        raise NotApplicable(
            f"ART's interval convolutions would be unrolled after each step into matrices of {unrolled / 1e6:.0f} "
            f"million entries (at most {_LARGEST_UNROLLED / 1e6:.0f} million)"
        )
    return _train_ibp(spec, options, convolved=False)


def train_ibp_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """The same with `ConvolvedIntervals`, for images of any size, and options with which short runs do not collapse."""
    return _train_ibp(spec, options, convolved=True)


def certify_ibp(
    spec: TrainingSpec, model: nn.Module, x: np.ndarray, y: np.ndarray, eps: float, options: Options
) -> np.ndarray:
    """Which images are provably classified correctly everywhere within L-inf eps and [0, 1], by interval bounds."""
    certifier = convert(spec, PyTorchIBPClassifier, model)
    certifier.model.set_forward_mode("abstract")
    with torch.no_grad():
        bounds = certifier.predict_intervals(images_for(certifier, x), bounds=float(eps), limits=[0.0, 1.0])
    certified: np.ndarray = certifier.certify(bounds, y)
    return certified


_PAPER = "Gowal et al. 2018, arXiv 1810.12715"
_NORMS_REASON = "interval bounds are of boxes"
_CHECK = within(at_most_one=("final_weight", "ramp"))

INTERVAL_BOUNDS = (
    Defence(
        "art-ibp",
        "ART AdversarialTrainerCertifiedIBP as shipped: interval bounds, ART's schedule",
        _PAPER,
        IBP_OPTIONS,
        replace(CERTIFIED_CLAIM, unmet="with ART's schedule it predicts a constant"),
        training=train_ibp,
        norms=("linf",),
        norms_reason=_NORMS_REASON,
        ours=False,
        fixed=OWN_LOSS,
        certificate=Certificate(norm="linf", certify=certify_ibp),
        check=_CHECK,
    ),
    Defence(
        "art-ibp-fixed",
        "ART AdversarialTrainerCertifiedIBP, fixed",
        _PAPER,
        IBP_FIXED_OPTIONS,
        CERTIFIED_CLAIM,
        training=train_ibp_fixed,
        norms=("linf",),
        norms_reason=_NORMS_REASON,
        repaired="it has a warm-up and enough steps, else it predicts a constant; convolutions are not unrolled",
        fixed=OWN_LOSS,
        certificate=Certificate(norm="linf", certify=certify_ibp),
        check=_CHECK,
    ),
)
