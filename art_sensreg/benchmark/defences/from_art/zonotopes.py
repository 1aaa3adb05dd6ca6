"""
ART's certified training by DeepZ zonotopes: Singh et al. 2018 (Fast and Effective Robustness Certification, NeurIPS)
and Mirman et al. 2018 (Differentiable Abstract Interpretation, ICML).

Claim: certified accuracy, a bound on the error under every perturbation within L-inf eps. Bounds are of float32, not
rounded outwards.

As shipped in ART 1.20.1,

- zonotopes of images near black or white crash under numpy 2.4 (an array put into one element): `train_deepz_fixed` and
  `certify_deepz` make the same boxes with `box_zonotope`;
- the trainer crashes on a custom `certification_schedule`, takes `batch_size` for a missing `nb_epochs`, copies
  the whole training set for every batch, and certifies image by image, with an error term for every pixel and for every
  ReLU that may switch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from art.defences.trainer import AdversarialTrainerCertifiedPytorch
from art.estimators.certification.deep_z import PytorchDeepZ
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences.from_art.certifiers import (
    convert,
    images_for,
    layers_of,
    sizes_of,
    train_certifier,
)
from art_sensreg.benchmark.defences.from_art.interval_bounds import CERTIFIED_CLAIM, OWN_LOSS
from art_sensreg.benchmark.defences.spec import Certificate, Defence, Options, within
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec

# `certified_per_batch`: images of a batch in its certified loss; ART's 10 take five times as long. `points`: images
# that are certified at most.
DEEPZ_OPTIONS: Options = {"loss_weighting": 0.1, "max_iter": 7, "certified_per_batch": 2, "points": 100}

_LARGEST_ZONOTOPE = 20_000_000


def _require_small_zonotopes(spec: TrainingSpec, model: nn.Module) -> None:
    layers = layers_of(model)
    sizes = sizes_of(spec, layers)
    terms = sizes[0] + sum(size for size, layer in zip(sizes[1:], layers, strict=True) if isinstance(layer, nn.ReLU))
    if terms * max(sizes) > _LARGEST_ZONOTOPE:
        raise NotApplicable(
            f"a zonotope of this model has up to {terms} error terms for {max(sizes)} neurons of a layer"
        )


def box_zonotope(image: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """
    The box around an image, within [0, 1], as ART's `concrete_to_zonotope`: centre `(1, *shape)`, and error terms
    `(pixels, *shape)`.
    """
    low, high = np.clip(image - eps, 0.0, 1.0), np.clip(image + eps, 0.0, 1.0)
    terms = np.diag((high - low).ravel() / 2).reshape(image.size, *image.shape)
    return (low + high)[None] / 2, terms


def _train_deepz(spec: TrainingSpec, options: Options, **kwargs: Any) -> PyTorchClassifier:
    classifier = spec.art_classifier()
    _require_small_zonotopes(spec, classifier.model)
    certifier = convert(spec, PytorchDeepZ, classifier.model, trained=True, **kwargs)
    attack = {"eps": spec.eps, "eps_step": 2.5 * spec.eps / options["max_iter"], "max_iter": options["max_iter"]}
    trainer = AdversarialTrainerCertifiedPytorch(
        certifier,
        bound=spec.eps,
        loss_weighting=options["loss_weighting"],
        batch_size=options["certified_per_batch"],
        pgd_params={**attack, "batch_size": spec.batch_size, "num_random_init": 1},
    )
    train_certifier(spec, trainer, certifier, classifier.model)
    return classifier


def train_deepz(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerCertifiedPytorch` as shipped: zonotope loss of a few images a batch, beside PGD training."""
    try:
        return _train_deepz(spec, options)
    except (TypeError, ValueError) as error:
        if "sequence" not in str(error):
            raise
        raise NotApplicable(
            f"ART's zonotopes of images near black or white crash under numpy 2 ({error}); see art-deepz-fixed"
        ) from error


def train_deepz_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """The same training with `box_zonotope`, which does not crash under numpy 2.4."""
    return _train_deepz(spec, options, concrete_to_zonotope=box_zonotope)


def certify_deepz(
    spec: TrainingSpec, model: nn.Module, x: np.ndarray, y: np.ndarray, eps: float, options: Options
) -> np.ndarray:
    """The same as `certify_ibp` by zonotopes, mostly tighter and image by image: the first `points` of them."""
    _require_small_zonotopes(spec, model)
    certifier = convert(spec, PytorchDeepZ, model)
    certifier.model.set_forward_mode("abstract")
    certified = []
    with torch.no_grad():
        for image, label in zip(images_for(certifier, x)[: options["points"]], y, strict=False):
            centre, terms = box_zonotope(image, eps)
            # Of the right class, not of the predicted one: dominated by it everywhere, the others are wrong everywhere.
            certified.append(certifier.certify(cent=centre, eps=terms, prediction=int(label)))
    return np.array(certified, dtype=bool)


_FIELDS: dict[str, Any] = {
    "norms": ("linf",),
    "norms_reason": "ART's zonotopes start from boxes",
    "certificate": Certificate(norm="linf", certify=certify_deepz),
    "check": within(at_most_one=("loss_weighting",)),
    "fixed": {
        **OWN_LOSS,
        "augment": "ART takes one array of images, and begins its schedule of eps anew in every `fit`",
    },
}
_PAPER = "Singh et al. 2018, NeurIPS; Mirman et al. 2018, ICML"

ZONOTOPES = (
    Defence(
        "art-deepz",
        "ART AdversarialTrainerCertified as shipped: DeepZ zonotopes",
        _PAPER,
        DEEPZ_OPTIONS,
        CERTIFIED_CLAIM,
        training=train_deepz,
        ours=False,
        **_FIELDS,
    ),
    Defence(
        "art-deepz-fixed",
        "ART AdversarialTrainerCertified, fixed",
        _PAPER,
        DEEPZ_OPTIONS,
        CERTIFIED_CLAIM,
        training=train_deepz_fixed,
        repaired="zonotopes of images near black or white no longer crash under numpy 2",
        **_FIELDS,
    ),
)
