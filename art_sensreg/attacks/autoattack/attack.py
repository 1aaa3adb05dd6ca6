"""The official AutoAttack, from the package pyautoattack, as an ART attack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from tqdm.auto import tqdm

from art_sensreg.art_bridge.checks import check_images
from art_sensreg.attacks.autoattack.backend import (
    MIN_CLASSES,
    VERSIONS,
    AutoAttackBackend,
    BackendSettings,
    auto_attack_class,
)
from art_sensreg.attacks.autoattack.rescale import RescaledModel, attackable_shape
from art_sensreg.attacks.base.inputs import CheckedAttack, attack_number, attack_range
from art_sensreg.attacks.base.predictions import labels_of, predicted_labels
from art_sensreg.attacks.wrappers.torch_model import check_classifier
from art_sensreg.utils import as_numbers, check_choice, check_count, check_flag, check_seed, enable_grad
from art_sensreg.utils.autograd import preserve_grad
from art_sensreg.utils.model_rng import preserve_rng_state
from art_sensreg.utils.modes import eval_mode, frozen
from art_sensreg.utils.norms import norm_name

_STRENGTH = ("nb_iter", "nb_queries", "nb_restarts", "eot_iter")


class OfficialAutoAttack(CheckedAttack):
    """
    AutoAttack as its authors wrote it: the attack behind published robust accuracies.

    ART's attack of that name is a different one. Stages run one after the other, each on the images that earlier ones
    did not break; images that none of them breaks are returned unchanged. Images are floating point, and keep their
    dtype. The attack sees all of ART's preprocessing (torch preprocessors without a gradient get a straight-through
    one), and its budget is in the user's units. An image counts as broken only if the classifier misclassifies the
    returned image itself, so for a random model a second draw has to agree.

    | Paper link: https://arxiv.org/abs/2003.01690 (Croce and Hein 2020), https://arxiv.org/abs/2103.01208 (L1)

    :param estimator: ART PyTorch classifier with `clip_values`.
    :param norm: `np.inf`, 2 or 1; or `linf`, `l2`, `l1`.
    :param eps: Size of the perturbation, in the user's units.
    :param version: `standard`, `plus`, or `rand` for random models.
    :param attacks: Single stages instead of a version: `apgd-ce`, `apgd-dlr`, `apgd-t`, `fab`, `fab-t`, `square`.
    :param seed: Seed of every stage and batch; the global generators are left as they were.
    :param batch_size: Number of images attacked together.
    :param verbose: Whether a progress bar over the stages is shown.
    :param nb_iter: Steps of APGD and FAB; None: 100, as in the paper.
    :param nb_queries: Queries of Square; None: 5000, as in the paper.
    :param nb_restarts: Restarts of each stage; None: 1 or 5, as in the paper.
    :param eot_iter: Gradients that APGD averages; None: 20 in `rand`, else 1, as in the paper.
    :raises ImportError: If pyautoattack is missing.
    :raises TypeError: If the classifier is not a PyTorch one, or a setting has the wrong type.
    :raises ValueError: If a setting is out of range, or a stage needs more classes or pixels than there are.

    Example:
    >>> from torch import nn
    >>> from art_sensreg.attacks import OfficialAutoAttack
    >>> classifier = PyTorchClassifier(nn.Flatten(), nn.CrossEntropyLoss(), (1, 1, 4), 4, clip_values=(0.0, 1.0))
    >>> x = np.array([[0.6, 0.5, 0.0, 0.0], [0.9, 0.0, 0.0, 0.0]], dtype=np.float32).reshape(2, 1, 1, 4)
    >>> attack = OfficialAutoAttack(classifier, eps=0.1, nb_iter=10, nb_queries=10)
    >>> x_adv = attack.generate(x, np.array([0, 0]))
    >>> classifier.predict(x_adv).argmax(axis=1) == 0, attack.robust
    (array([False,  True]), array([False,  True]))
    >>> list(attack.masks)
    ['clean', 'apgd-ce', 'apgd-t', 'fab-t', 'square']
    """

    attack_params: ClassVar[list[str]] = [
        *CheckedAttack.attack_params,
        *("norm", "eps", "version", "attacks", "seed", "batch_size", "verbose"),
        *_STRENGTH,
    ]
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: Any = np.inf,
        eps: float = 0.3,
        version: str = "standard",
        attacks: Sequence[str] | None = None,
        seed: int = 0,
        batch_size: int = 250,
        verbose: bool = False,
        nb_iter: int | None = None,
        nb_queries: int | None = None,
        nb_restarts: int | None = None,
        eot_iter: int | None = None,
    ) -> None:
        auto_attack_class()
        super().__init__(estimator=check_classifier(estimator))
        self.norm, self.eps, self.seed, self.batch_size, self.verbose = norm, eps, seed, batch_size, verbose
        self.version = "custom" if attacks is not None and version == "standard" else version
        self.attacks = attacks
        self.nb_iter, self.nb_queries, self.nb_restarts, self.eot_iter = nb_iter, nb_queries, nb_restarts, eot_iter
        self.masks: dict[str, np.ndarray] = {}
        """For `clean` and each stage: which images are still classified correctly after it, `(n,)`."""
        self.seconds: dict[str, float] = {}
        """Duration of each stage."""
        self.warnings: list[str] = []
        """The warnings of pyautoattack (a random defence, zero gradients, ...), each text once."""
        self.robust = np.zeros(0, dtype=bool)
        """Which images are still classified correctly after all stages, `(n,)`."""
        self._settle()

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages, in their order."""
        return VERSIONS[self.version] if self.attacks is None else tuple(self.attacks)

    def _generate(self, x: Any, y: Any) -> np.ndarray:
        classifier, images = self.estimator, as_numbers(x, "x")
        attack_range(classifier)  # refuses a range that does not fit the images
        # In the machine's byte order, and of a precision that torch has.
        dtype = np.dtype(np.float64) if images.dtype.itemsize > 8 else images.dtype.newbyteorder("=")
        images = check_images(images, classifier.input_shape, classifier.clip_values, dtype=dtype)
        images = np.ascontiguousarray(images)
        labels = None if y is None else labels_of(classifier, y, len(images))
        with enable_grad(), eval_mode(classifier._model):
            model = RescaledModel(classifier, self._shape())
            # The package seeds every device.
            devices = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
            with preserve_grad(model), frozen(model), devices, preserve_rng_state(classifier.device, self.seed):
                return self._run(model, images, self._predicted(images) if labels is None else labels)

    def _run(self, model: RescaledModel, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        backend, scaled, found = self._backend(model), model.rescale(x), x.copy()
        self.warnings, self.seconds = backend.warnings, {}
        robust = self._predicted(x) == y
        self.masks = {"clean": robust.copy()}
        self._check_gradient(model, scaled[:1])
        backend.check_defence(*self._tensors(scaled[: self.batch_size], y[: self.batch_size]))
        for stage in tqdm(self.stages, desc="AutoAttack", disable=not self.verbose):
            begin, left = time.perf_counter(), np.flatnonzero(robust)
            for first in range(0, len(left), self.batch_size):
                chosen = left[first : first + self.batch_size]
                perturbed, broken = backend.perturb(stage, *self._tensors(scaled[chosen], y[chosen]))
                chosen = chosen[broken.cpu().numpy()]
                images = model.restore(x[chosen], perturbed[broken].cpu().numpy(), self.eps, self.norm)
                # What counts is the classifier's prediction for the image that the user gets.
                wrong = self._predicted(images) != y[chosen]
                found[chosen[wrong]], robust[chosen[wrong]] = images[wrong], False
            self.seconds[stage], self.masks[stage] = time.perf_counter() - begin, robust.copy()
        self.robust = robust
        backend.check_square({stage: float(mask.mean()) for stage, mask in self.masks.items()})
        return found

    def _check_gradient(self, model: RescaledModel, scaled: np.ndarray) -> None:
        if set(self.stages) == {"square"}:
            return
        leaf = torch.from_numpy(scaled).to(self.estimator.device).requires_grad_(True)
        with preserve_rng_state(self.estimator.device):
            total = model(leaf).sum()
            found = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
        if found is None:
            raise ValueError(
                "`estimator` cuts the gradient: autograd finds no path from the images to the logits. Wrap the part "
                "that detaches or leaves torch in art_sensreg.attacks.BPDA, or ask for attacks=('square',)."
            )

    def _tensors(self, scaled: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.estimator.device
        return torch.from_numpy(scaled).to(device), torch.from_numpy(y).to(device)

    def _predicted(self, x: np.ndarray) -> np.ndarray:
        return predicted_labels(self.estimator, x, self.batch_size)

    def _backend(self, model: RescaledModel) -> AutoAttackBackend:
        settings = BackendSettings(
            nb_classes=self.estimator.nb_classes,
            norm=self.norm,
            eps=self.eps / model.width,
            version=self.version,
            attacks=None if self.attacks is None else tuple(self.attacks),
            seed=self.seed,
            device=self.estimator.device,
            **{name: getattr(self, name) for name in _STRENGTH},
        )
        return AutoAttackBackend(model, settings)

    def _shape(self) -> tuple[int, ...]:
        windows = "square" in self.stages and self.norm != "linf"
        shape = attackable_shape(tuple(self.estimator.input_shape), windows)
        if shape is None:
            others = tuple(stage for stage in self.stages if stage != "square")
            raise ValueError(
                f"`estimator` has images of shape {self.estimator.input_shape}; expected at least 5 values a channel, "
                f"which square needs in {self.norm}. Without it: attacks={others}."
            )
        return shape

    def _check_params(self) -> None:
        self.norm, self.eps = norm_name(self.norm), attack_number("eps", self.eps)
        check_seed("seed", self.seed)
        check_flag("verbose", self.verbose)
        for name in ("seed", "batch_size", *_STRENGTH):
            if getattr(self, name) is not None or name not in _STRENGTH:
                check_count(name, getattr(self, name), minimum=0 if name == "seed" else 1)
                setattr(self, name, int(getattr(self, name)))
        self._check_stages()
        self._shape()

    def _check_stages(self) -> None:
        if self.attacks is None:
            check_choice("version", self.version, tuple(VERSIONS))
        elif self.version != "custom":
            raise ValueError(f"`version` is {self.version!r} and `attacks` is given; expected one of them.")
        elif isinstance(self.attacks, str) or not isinstance(self.attacks, Sequence) or not self.attacks:
            raise ValueError(f"`attacks` is {self.attacks!r}; expected a list of some of {', '.join(MIN_CLASSES)}.")
        for stage in self.stages:
            check_choice("attacks", stage, tuple(MIN_CLASSES))
        classes, needed = self.estimator.nb_classes, max(MIN_CLASSES[stage] for stage in self.stages)
        if classes < needed:
            possible = tuple(stage for stage, least in MIN_CLASSES.items() if least <= classes)
            raise ValueError(
                f"`estimator` has {classes} classes; expected at least {needed} for {', '.join(self.stages)}. Possible "
                f"are attacks={possible}."
            )
        if self.norm == "l1" and self.version == "standard" and self.nb_iter is not None and self.nb_iter < 3:
            raise ValueError(f"`nb_iter` is {self.nb_iter}; expected at least 3: APGD has three phases in L1.")
