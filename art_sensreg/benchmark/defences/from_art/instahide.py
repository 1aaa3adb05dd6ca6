"""
ART's DP-InstaHide training as a row (Borgnia et al. 2021, arXiv 2103.02079): mixup, cutout and Laplace noise.

Claim: against poisoned training data and backdoors, by differential privacy; its paper claims nothing about evasion.
The row shows what such augmentation is worth against perturbed test images.

In ART 1.20.1 the trainer runs as shipped. Traps: it calls `fit` for each batch, so that a scheduler is stepped once a
batch; after each step it computes the loss and predicts again, for its log only; integer labels crash when it takes
their argmax; `CutoutPyTorch` takes images with channels last unless told otherwise, and cuts boxes of an even side only
(`length=1` cuts nothing); one mixing factor serves a whole batch.
"""

from __future__ import annotations

from typing import Any

from art.defences.preprocessor import CutoutPyTorch, MixupPyTorch
from art.defences.trainer import DPInstaHideTrainer
from art.estimators.classification import PyTorchClassifier
from art.utils import to_categorical

from art_sensreg.benchmark.defences.train_spec import TrainingSpec

Options = dict[str, Any]

# `cutout_fraction`: side of the box by the side of the image. `scale`: of the Laplace noise, ART's own default.
INSTAHIDE_OPTIONS: Options = {"num_mix": 2, "alpha": 1.0, "cutout_fraction": 0.25, "scale": 0.03}


def train_dp_instahide(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """
    `DPInstaHideTrainer` with `MixupPyTorch`, `CutoutPyTorch` and Laplace noise, on a one-cycle schedule.

    :param spec: The training spec.
    :param options: As `INSTAHIDE_OPTIONS`.
    :return: The trained classifier.
    """
    dataset = spec.dataset
    classifier = spec.art_classifier()
    device = {"device_type": "gpu" if spec.device == "cuda" else "cpu"}
    length = max(2, 2 * round(options["cutout_fraction"] * min(dataset.input_shape[1:]) / 2))
    augmentations = [
        MixupPyTorch(dataset.nb_classes, alpha=options["alpha"], num_mix=options["num_mix"], **device),
        CutoutPyTorch(length, channels_first=True, **device),
    ]
    trainer = DPInstaHideTrainer(classifier, augmentations, noise="laplacian", scale=options["scale"])
    y = to_categorical(dataset.y_train, dataset.nb_classes)
    trainer.fit(
        dataset.x_train, y, batch_size=spec.batch_size, nb_epochs=spec.epochs, scheduler=spec.one_cycle(classifier)
    )
    return classifier
