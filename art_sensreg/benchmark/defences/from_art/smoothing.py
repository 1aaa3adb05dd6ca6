"""
ART's randomised smoothing: four ways of training the base model, and the certificate.

All claim certified accuracy in L2 of the *smoothed* classifier, which predicts the class that the base model assigns
to most Gaussian copies of an image; nothing is claimed about the base model itself. Gaussian training and
certificate: Cohen et al. 2019, arXiv 1902.02918; MACER: Zhai et al. 2020, arXiv 2001.02378; SmoothAdv: Salman et al.
2019, arXiv 1906.04584; SmoothMix: Jeong et al. 2021, arXiv 2111.09277.

As shipped in ART 1.20.1, Gaussian training and MACER's do what their papers say. Defects of the others:

- `certify` needs statsmodels, which ART does not declare, and holds all noisy copies of an image at once;
  :class:`RepairedSmoothing` takes the Clopper-Pearson bound from scipy. The statistics are right: the class is selected
  on separate draws, `sample_size` of them (32 by default; Cohen: 100), and each image fails with probability `alpha`;
- `predict` answers an abstention with zeros, whose argmax is class 0;
- `PyTorchMACER.get_params` looks for an attribute `gauss_num` that does not exist;
- `PyTorchSmoothAdv` writes the warmed-up size into `attack.norm`, where nothing reads it: the attack is L-inf, of steps
  of 0.1, clips away the noise outside of [0, 1], takes the predicted labels for the true ones, and keeps its last step
  only. More than one noise vector crashes. :class:`RepairedSmoothAdv` has the attack of the paper;
- `PyTorchSmoothMix` takes `alpha`, the failure probability (0.001), for the step size of its attack, which therefore
  hardly moves; :class:`RepairedSmoothMix` has a `step_size`;
- both cut a batch into `num_noise_vec` parts: a last batch of fewer images gives a loss of NaN, and weights of NaN.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import (
    PyTorchMACER,
    PyTorchRandomizedSmoothing,
    PyTorchSmoothAdv,
    PyTorchSmoothMix,
)
from art.estimators.classification import PyTorchClassifier
from scipy import stats  # type: ignore[import-untyped]
from torch import nn
from torch.nn import functional

from art_sensreg.benchmark.defences.claims import Claim
from art_sensreg.benchmark.defences.from_art.adversarial import art_one_cycle
from art_sensreg.benchmark.defences.spec import Certificate, Defence, Options, Randomness, within
from art_sensreg.benchmark.defences.train_spec import TrainingSpec

# Of the certificate: `n0` draws select the class, `n` bound its probability, each image fails with probability `alpha`.
CERTIFICATE_OPTIONS: Options = {"sigma": 0.25, "n0": 100, "n": 1000, "alpha": 0.001}
SMOOTHING_OPTIONS: Options = {"sigma": 0.25}
# ART's, which are the authors' for CIFAR-10 with this sigma; the authors draw 16 samples.
MACER_OPTIONS: Options = {"sigma": 0.25, "beta": 16.0, "gamma": 8.0, "lmbda": 12.0, "samples": 8}
# `eps`: L2 size of the attack, reached after `warmup` epochs.
SMOOTHADV_OPTIONS: Options = {"sigma": 0.25, "eps": 0.5, "max_iter": 4, "noise_vectors": 1, "warmup": 3}
SMOOTHADV_FIXED_OPTIONS: Options = {**SMOOTHADV_OPTIONS, "noise_vectors": 2}
SMOOTHMIX_OPTIONS: Options = {"sigma": 0.25, "eta": 5.0, "max_iter": 4, "noise_vectors": 2, "warmup": 3}
SMOOTHMIX_FIXED_OPTIONS: Options = {**SMOOTHMIX_OPTIONS, "step_size": 0.5}


class RepairedSmoothing(PyTorchRandomizedSmoothing):
    """
    Certification without statsmodels, and with as much memory as a batch needs.

    | Paper link: https://arxiv.org/abs/1902.02918
    """

    def _prediction_counts(self, x: np.ndarray, n: int | None = None, batch_size: int = 128) -> np.ndarray:
        image = torch.as_tensor(x, dtype=torch.float32, device=self.device)
        counts = torch.zeros(self.nb_classes, dtype=torch.int64)
        self.model.eval()
        with torch.no_grad():
            for batch in torch.arange(self.sample_size if n is None else n).split(batch_size):
                noise = torch.randn(len(batch), *image.shape, device=self.device) * self.scale
                counts += torch.bincount(self.model(image + noise).argmax(1).cpu(), minlength=self.nb_classes)
        return counts.numpy()

    def _lower_confidence_bound(self, n_class_samples: int, n_total_samples: int) -> float:
        if n_class_samples == 0:
            return 0.0
        return float(stats.beta.ppf(self.alpha, n_class_samples, n_total_samples - n_class_samples + 1))


class RepairedSmoothAdv(PyTorchSmoothAdv):
    """
    SmoothAdv with the attack of its paper: L2 steps up the loss of the mean probabilities of noisy copies.

    | Paper link: https://arxiv.org/abs/1906.04584
    """

    def fit(
        self, x: np.ndarray, y: np.ndarray, batch_size: int = 128, nb_epochs: int = 10, scheduler: Any = None, **_: Any
    ) -> None:
        """Train on noisy copies of adversarial images; labels are one-hot, a scheduler is stepped once an epoch."""
        images, labels = torch.from_numpy(x).to(self.device), torch.from_numpy(y.argmax(1)).to(self.device)
        for epoch in range(nb_epochs):
            eps = self.epsilon * min(1.0, (epoch + 1) / self.warmup)
            for batch in torch.randperm(len(images)).split(batch_size):
                inputs, targets = images[batch], labels[batch]
                # One draw for attack and training, as the paper does.
                noise = torch.randn(self.num_noise_vec, *inputs.shape, device=self.device) * self.scale
                self.model.eval()
                adversarial = self._ascend(inputs, targets, noise, eps)
                self.model.train()
                loss = self.loss(self.model((adversarial + noise).flatten(0, 1)), targets.repeat(self.num_noise_vec))
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            if scheduler is not None:
                scheduler.step()

    def _ascend(self, inputs: torch.Tensor, targets: torch.Tensor, noise: torch.Tensor, eps: float) -> torch.Tensor:
        adversarial = inputs.clone()
        for _ in range(self.num_steps):
            adversarial.requires_grad_()
            logits = self.model((adversarial + noise).flatten(0, 1)).view(len(noise), len(inputs), -1)
            mean = torch.softmax(logits, dim=2).mean(0)
            loss = functional.nll_loss(mean.clamp(min=1e-20).log(), targets, reduction="sum")
            gradient = torch.autograd.grad(loss, adversarial)[0].flatten(1)
            step = 2 * eps / self.num_steps * functional.normalize(gradient).view_as(inputs)
            change = (adversarial.detach() + step - inputs).flatten(1).renorm(2, 0, eps)
            adversarial = (inputs + change.view_as(inputs)).clamp(*self.clip_values)
        return adversarial


class RepairedSmoothMix(PyTorchSmoothMix):
    """
    SmoothMix whose attack has a step size of its own.

    | Paper link: https://arxiv.org/abs/2111.09277
    """

    step_size = 0.5

    def _smooth_mix_pgd_attack(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        failure_probability: float = self.alpha
        self.alpha: float = self.step_size
        try:
            found: tuple[torch.Tensor, torch.Tensor] = super()._smooth_mix_pgd_attack(*args, **kwargs)
        finally:
            self.alpha = failure_probability
        return found


class SmoothedModule(nn.Module):
    """
    One draw of the smoothed classifier: the logits of a noisy copy of its input, drawn anew by each call from torch's
    global generator. EOT averages them in attacks, and fresh draws are scored.
    """

    def __init__(self, model: nn.Module, sigma: float) -> None:
        super().__init__()
        self.model = model
        self.sigma = sigma

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x + self.sigma * torch.randn_like(x))
        return logits


def _fit(spec: TrainingSpec, options: Options, kind: type[PyTorchRandomizedSmoothing], **kwargs: Any) -> Any:
    classifier = spec.art_classifier()
    fixed = {"loss": classifier.loss, "scale": options["sigma"]}
    smoothing = spec.estimator(kind, classifier.model, classifier.optimizer, **fixed, **kwargs)
    if "step_size" in options:
        smoothing.step_size = options["step_size"]
    n, parts = len(spec.dataset.x_train), options.get("noise_vectors", 1)
    # ART fails on a last batch of one image, or of fewer than the parts that it is cut into.
    drop_last = n > spec.batch_size and n % spec.batch_size <= parts
    takes_all = kind is RepairedSmoothAdv  # the others do a step for each part; and the repaired one drops nothing
    batches = spec.steps // spec.epochs - (drop_last and not takes_all and n % spec.batch_size > 0)
    scheduler = art_one_cycle(spec, classifier.optimizer)
    with spec.hooked(classifier.optimizer, classifier.model, spec.epochs * batches * (1 if takes_all else parts)):
        for done, (x, epochs) in enumerate(spec.epochs_of_images()):
            if done:  # ART counts the epochs of its warm-up from the start of each `fit`
                smoothing.warmup = options.get("warmup", 0) / (done + 1)
            smoothing.fit(
                x,
                spec.one_hot,
                batch_size=spec.batch_size,
                nb_epochs=epochs,
                drop_last=drop_last,
                scheduler=scheduler,
            )
    return classifier


def train_smoothing(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`PyTorchRandomizedSmoothing.fit`: cross-entropy on Gaussian copies."""
    return _fit(spec, options, PyTorchRandomizedSmoothing)


def train_macer(spec: TrainingSpec, options: Options) -> PyTorchClassifier:
    """`PyTorchMACER.fit`: cross-entropy of the smoothed classifier, and a hinge on its certified radius."""
    names = {name: options[name] for name in ("beta", "gamma", "lmbda")}
    return _fit(spec, options, PyTorchMACER, gaussian_samples=options["samples"], **names)


def _adversarial(options: Options) -> Options:
    names = {"max_iter": "num_steps", "noise_vectors": "num_noise_vec", "warmup": "warmup"}
    return {name: options[option] for option, name in names.items()}


def train_smoothadv(
    spec: TrainingSpec, options: Options, kind: type[PyTorchSmoothAdv] = PyTorchSmoothAdv
) -> PyTorchClassifier:
    """`PyTorchSmoothAdv.fit`: as shipped L-inf steps of 0.1, of which the last one is kept."""
    return _fit(spec, options, kind, epsilon=options["eps"], **_adversarial(options))


def train_smoothmix(
    spec: TrainingSpec, options: Options, kind: type[PyTorchSmoothMix] = PyTorchSmoothMix
) -> PyTorchClassifier:
    """`PyTorchSmoothMix.fit`: as shipped its attack moves by a thousandth a step."""
    return _fit(spec, options, kind, eta=options["eta"], **_adversarial(options))


def certified_radii(
    spec: TrainingSpec, model: nn.Module, x: np.ndarray, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    """The smoothed classifier's classes, -1 for an abstention, and the L2 radii within which they cannot change."""
    smoothing = spec.estimator(
        RepairedSmoothing,
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        sample_size=options["n0"],
        scale=options["sigma"],
        alpha=options["alpha"],
    )
    predictions, radii = smoothing.certify(x, n=options["n"], batch_size=1000)
    return predictions, radii


def certify_smoothing(
    spec: TrainingSpec, model: nn.Module, x: np.ndarray, y: np.ndarray, eps: float, options: Options
) -> np.ndarray:
    """
    Which images the smoothed classifier provably classifies correctly everywhere within L2 eps: each entry is wrong
    with probability `alpha` at most.
    """
    predictions, radii = certified_radii(spec, model, x, options)
    # Cohen's theorem is about perturbations smaller than the radius.
    certified: np.ndarray = (predictions == y) & (radii > eps)
    return certified


_FIELDS: dict[str, Any] = {
    "claim": Claim(metric="certified_accuracy", threat="any evasion within eps in L2, with high probability"),
    "ours": False,
    "random": Randomness(module=lambda model, options: SmoothedModule(model, options["sigma"])),
    "certificate": Certificate(
        norm="l2",
        certify=certify_smoothing,
        # With a thousand samples no radius is above 2.5 sigma, whatever the model.
        sizes=lambda options: (options["sigma"], 2 * options["sigma"]),
    ),
    "check": within(above_zero=("alpha", "sigma")),
}
_OWN_LOSS = {"label_smoothing": "ART computes the loss itself, on class indices"}
_SMOOTHADV_PAPER = "Salman et al. 2019, arXiv 1906.04584"
_SMOOTHMIX_PAPER = "Jeong et al. 2021, arXiv 2111.09277"

SMOOTHING = (
    Defence(
        "art-smoothing",
        "ART RandomizedSmoothing: trained on Gaussian noise, predicts by the mean over noise",
        "Cohen et al. 2019, arXiv 1902.02918",
        {**CERTIFICATE_OPTIONS, **SMOOTHING_OPTIONS},
        training=train_smoothing,
        **_FIELDS,
    ),
    Defence(
        "art-macer",
        "ART MACER: smoothing trained for a large certified radius",
        "Zhai et al. 2020, arXiv 2001.02378",
        {**CERTIFICATE_OPTIONS, **MACER_OPTIONS},
        training=train_macer,
        fixed=_OWN_LOSS,
        **_FIELDS,
    ),
    Defence(
        "art-smoothadv",
        "ART SmoothAdv as shipped: an L-inf attack on predicted labels",
        _SMOOTHADV_PAPER,
        {**CERTIFICATE_OPTIONS, **SMOOTHADV_OPTIONS},
        training=train_smoothadv,
        **_FIELDS,
    ),
    Defence(
        "art-smoothadv-fixed",
        "ART SmoothAdv, fixed",
        _SMOOTHADV_PAPER,
        {**CERTIFICATE_OPTIONS, **SMOOTHADV_FIXED_OPTIONS},
        training=partial(train_smoothadv, kind=RepairedSmoothAdv),
        repaired="the L2 attack of the paper, on the true labels, over several noise vectors",
        **_FIELDS,
    ),
    Defence(
        "art-smoothmix",
        "ART SmoothMix as shipped: an attack that does not move",
        _SMOOTHMIX_PAPER,
        {**CERTIFICATE_OPTIONS, **SMOOTHMIX_OPTIONS},
        training=train_smoothmix,
        fixed=_OWN_LOSS,
        **_FIELDS,
    ),
    Defence(
        "art-smoothmix-fixed",
        "ART SmoothMix, fixed",
        _SMOOTHMIX_PAPER,
        {**CERTIFICATE_OPTIONS, **SMOOTHMIX_FIXED_OPTIONS},
        training=partial(train_smoothmix, kind=RepairedSmoothMix),
        fixed=_OWN_LOSS,
        repaired="the attack has a step size (ART passes it the failure probability)",
        **_FIELDS,
    ),
)
