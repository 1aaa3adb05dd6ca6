"""
ART's Oracle-Aligned Adversarial Training: as shipped, and fixed.

Claim: robust accuracy against L-inf perturbations, also larger than those that cannot be seen (Addepalli et al. 2022,
arXiv 2210.09852). As `AdversarialTrainerOAATPyTorch` of ART 1.20.1 is shipped,

- the weight average is written into a temporary dictionary: it stays at its initial weights, is saved as such, and the
  network of the perceptual distance is loaded from it;
- both images of the perceptual distance share one dictionary of activations: the distance is 0 for every pair, and the
  term of the attack that keeps perturbations imperceptible has no effect;
- the schedule of eps counts epochs from 0 where the authors count from 1, so that eps is never reached; `step` as
  schedule of the learning rate reads a variable before it is set, and `oaat_warmup` divides by zero at ten epochs;
- the trained weights are returned where the authors evaluate the averaged ones;
- the weight average goes through files, and the dictionary of parameters is changed in place.

It accepts no torch scheduler: here it trains with SGD and its own cosine schedule, both as shipped and fixed.
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainerOAATPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.benchmark.defences.from_art.adversarial import LINF_CLAIM, WatchedBatches, fit_watched
from art_sensreg.benchmark.defences.from_art.fbf import SGD_WITH_DECAY
from art_sensreg.benchmark.defences.optimization import resolved
from art_sensreg.benchmark.defences.spec import Defence, Options, within
from art_sensreg.benchmark.defences.train_spec import NotApplicable, TrainingSpec
from art_sensreg.models import FeatureClassifier

# Values of the authors' CIFAR-10 run where they carry over: `beta` to `beta_final`, `mixup_alpha`, `lpips_weight`,
# `awp_gamma`, and `mixup_factor` (24/255 beside 16/255) and `alternate_factor` (12/255). Its 0.995 averages over 200
# steps, which is most of a run on the digits; 0.95 over 20.
OAAT_OPTIONS: Options = {
    "max_iter": 10,
    "learning_rate": 0.1,
    "beta": 1.5,
    "beta_final": 3.0,
    "mixup_alpha": 0.2,
    "mixup_factor": 1.5,
    "alternate_factor": 0.75,
    "lpips_weight": 1.0,
    "awp_gamma": 0.005,
    "tau": 0.95,
}


class WatchedOAAT(WatchedBatches, AdversarialTrainerOAATPyTorch):
    """
    Oracle-Aligned Adversarial Training as ART has it.

    | Paper link: https://arxiv.org/abs/2210.09852
    """


class RepairedOAAT(WatchedOAAT):
    """
    Oracle-Aligned Adversarial Training whose weight average and perceptual distance take effect.

    | Paper link: https://arxiv.org/abs/2210.09852
    """

    @staticmethod
    def calculate_lpips_distance(
        p_classifier: PyTorchClassifier, input_1: torch.Tensor, input_2: torch.Tensor, layers: list[int | str]
    ) -> torch.Tensor:
        """
        Perceptual distance, `(n,)`, of two batches of images by the normalised activations of some layers, of
        four-dimensional output.
        """
        vectors = []
        for images in (input_1, input_2):
            shared, names = AdversarialTrainerOAATPyTorch.get_layer_activations(p_classifier, images, layers)
            # At once: the next images overwrite the entries of this dictionary.
            vectors.append(AdversarialTrainerOAATPyTorch.normalize_concatenate_activations(shared, names))
        distances: torch.Tensor = torch.linalg.vector_norm(vectors[0] - vectors[1], dim=1)
        return distances

    def _batch_process(
        self, i_epoch: int, nb_epochs: int, batch_id: int, x_batch: np.ndarray, y_batch: np.ndarray
    ) -> tuple[float, float, float]:
        result: tuple[float, float, float] = super()._batch_process(i_epoch, nb_epochs, batch_id, x_batch, y_batch)
        settings = self._train_params
        averages = zip(settings["list_swa_epoch"], settings["list_swa_tau"], self._list_avg_models, strict=True)
        for first_epoch, tau, averaged in averages:
            if i_epoch >= first_epoch:
                _average(averaged.model, self._classifier.model, 0.0 if i_epoch == first_epoch else tau)
        return result


def _average(average: nn.Module, model: nn.Module, tau: float) -> None:
    """Move an exponential average of weights by one step; counters of BatchNorm are copied."""
    with torch.no_grad():
        for former, current in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            former.copy_(torch.lerp(current, former, tau) if current.is_floating_point() else current)


def _in_a_row(model: nn.Module) -> nn.Sequential:
    """The layers of a model one after the other, on the same weights: ART finds only a model's outermost layers."""
    if not isinstance(model, FeatureClassifier) or not isinstance(model.features, nn.Sequential):
        raise NotApplicable("ART's OAAT compares activations of layers, which it finds in a sequence of layers only")
    return nn.Sequential(*model.features, model.head)


def _perceptual_layers(model: nn.Sequential, input_shape: tuple[int, int, int]) -> list[str]:
    """Names of the layers whose activations are compared: those of four dimensions that are no mere convolution."""
    names, x = [], torch.zeros(1, *input_shape)
    with torch.no_grad():
        for name, layer in model.eval().named_children():
            x = layer(x)
            if x.ndim == 4 and not isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                names.append(name)
    if not names:
        raise NotApplicable(
            "ART's OAAT measures a perceptual distance on convolutional layers, and this model has none"
        )
    return names


def _parameters(spec: TrainingSpec, options: Options, layers: list[str], folder: str, eps: float) -> Options:
    optimization = resolved(spec.optimization, SGD_WITH_DECAY)
    return {
        "lr": options["learning_rate"],
        "momentum": optimization.momentum,
        "weight_decay": optimization.weight_decay,
        "lr_schedule": "cosine",
        "oaat_warmup": 0,
        "norm": spec.art_norm,
        "epsilon": eps,
        "i_epsilon": eps / 4,
        "alternate_iter_eps": options["alternate_factor"] * spec.eps,
        "mixup_epsilon": options["mixup_factor"] * spec.eps,
        "mixup_alpha": options["mixup_alpha"],
        "alpha": 1.0,
        "max_iter": options["max_iter"],
        "beta": options["beta"],
        "beta_final": options["beta_final"],
        "lpips_weight": options["lpips_weight"],
        "i_lpips_weight": options["lpips_weight"],
        "awp_gamma": options["awp_gamma"],
        # As the authors have it: not in the first tenth of the epochs.
        "awp_warmup": spec.epochs // 10,
        "swa_save_epoch": 0,
        "list_swa_tau": [options["tau"]],
        "list_swa_epoch": [0],
        "load_swa_model_tau": options["tau"],
        "layer_names_activation": layers,
        "models_path": folder,
    }


def _train(spec: TrainingSpec, options: Options, kind: type[WatchedOAAT]) -> PyTorchClassifier:
    if spec.optimization.optimizer not in (None, "sgd"):
        raise NotApplicable("ART's OAAT replaces its optimizer by SGD after three quarters of the epochs")
    classifier = spec.art_classifier()
    models = (classifier.model, spec.new_model(), spec.new_model(), spec.new_model())
    trained, proxy, perceptual, averaged = (_sgd_classifier(spec, _in_a_row(model), options) for model in models)
    trained._optimizer = spec.optimizer(trained.model.parameters(), options["learning_rate"], own=SGD_WITH_DECAY)
    layers = _perceptual_layers(_in_a_row(spec.new_model()), spec.dataset.input_shape)
    # Its sizes and steps are set anew for every batch.
    attack = ProjectedGradientDescent(
        trained, eps=spec.eps, eps_step=spec.eps / 4, num_random_init=1, batch_size=spec.batch_size, verbose=False
    )
    repaired = issubclass(kind, RepairedOAAT)
    # ART's last epoch trains at (epochs - 1) / epochs of what it is given.
    eps = spec.eps * spec.epochs / (spec.epochs - 1) if repaired and spec.epochs > 1 else spec.eps
    with TemporaryDirectory() as folder:
        settings = _parameters(spec, options, layers, folder, eps)
        fit_watched(spec, kind(trained, proxy, perceptual, [averaged], attack, settings))
    if repaired and spec.optimization.weight_average is None:
        _average(trained.model, averaged.model, 0.0)
    return classifier


def _sgd_classifier(spec: TrainingSpec, model: nn.Sequential, options: Options) -> PyTorchClassifier:
    optimizer = torch.optim.SGD(model.parameters(), lr=options["learning_rate"], momentum=0.9, weight_decay=5e-4)
    return spec.estimator(PyTorchClassifier, model, optimizer, loss=spec.loss())


def train_oaat(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`AdversarialTrainerOAATPyTorch` as shipped: no weight average, no perceptual term."""
    return _train(spec, options, WatchedOAAT)


def train_oaat_fixed(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """OAAT whose weight average and perceptual distance take effect, whose eps is reached; the average is returned."""
    return _train(spec, options, RepairedOAAT)


_PAPER = "Addepalli et al. 2022, arXiv 2210.09852"
_COMMON: dict[str, Any] = {
    "norms": ("linf",),
    "norms_reason": "ART's OAAT clips each pixel to eps in its mixed batches, whatever the norm",
    "check": within(above_zero=("learning_rate", "mixup_alpha"), at_most_one=("tau",)),
}

OAAT = (
    Defence(
        "art-oaat",
        "ART AdversarialTrainerOAAT as shipped: no weight average, no perceptual term",
        _PAPER,
        OAAT_OPTIONS,
        LINF_CLAIM,
        training=train_oaat,
        ours=False,
        **_COMMON,
    ),
    Defence(
        "art-oaat-fixed",
        "ART AdversarialTrainerOAAT, fixed",
        _PAPER,
        OAAT_OPTIONS,
        LINF_CLAIM,
        training=train_oaat_fixed,
        repaired="the weight average is kept and returned; the perceptual distance is of two images; eps is reached",
        **_COMMON,
    ),
)
