"""
ART's DP-InstaHide training (Borgnia et al. 2021, arXiv 2103.02079): mixup, cutout and Laplace noise.

Claim: protection from poisoned training data and backdoors by differential privacy; its paper claims nothing about
evasion. Here it shows what such augmentation is worth against perturbed test images.

In ART 1.20.1 the trainer runs as shipped. Traps: it calls `fit` for each batch, so that a scheduler is stepped after
every batch; after each step it computes the loss and predicts again, for its log only; integer labels crash when it
takes their argmax; `CutoutPyTorch` takes images with channels last unless told otherwise, and cuts boxes of an even
side only (`length=1` cuts nothing); one mixing factor serves a whole batch.
"""

from __future__ import annotations

from art.defences.preprocessor import CutoutPyTorch, MixupPyTorch
from art.defences.trainer import DPInstaHideTrainer
from art.estimators.classification import PyTorchClassifier

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.spec import Defence, Options, within
from art_sensreg.benchmark.defences.train_spec import TrainingSpec

# `cutout_fraction`: side of the box by the side of the image. `scale`: of the Laplace noise, ART's own default.
INSTAHIDE_OPTIONS: Options = {"num_mix": 2, "alpha": 1.0, "cutout_fraction": 0.25, "scale": 0.03}


def train_dp_instahide(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`DPInstaHideTrainer` with `MixupPyTorch`, `CutoutPyTorch` and Laplace noise, on a one-cycle schedule."""
    classifier, classes = spec.art_classifier(), spec.dataset.nb_classes
    length = max(2, 2 * round(options["cutout_fraction"] * min(spec.dataset.input_shape[1:]) / 2))
    augmentations = [
        MixupPyTorch(classes, alpha=options["alpha"], num_mix=options["num_mix"], device_type=spec.art_device),
        CutoutPyTorch(length, channels_first=True, device_type=spec.art_device),
    ]
    trainer = DPInstaHideTrainer(classifier, augmentations, noise="laplacian", scale=options["scale"])
    return spec.fit(trainer, scheduler=spec.one_cycle(classifier))


INSTAHIDE = (
    Defence(
        "art-dp-instahide",
        "ART DPInstaHideTrainer: mixup, cutout and Laplace noise",
        "Borgnia et al. 2021, arXiv 2103.02079",
        INSTAHIDE_OPTIONS,
        Claim(metric="none", threat="poisoned training data and backdoors"),
        training=train_dp_instahide,
        ours=False,
        check=within(above_zero=("alpha",), at_most_one=("cutout_fraction",)),
    ),
)
