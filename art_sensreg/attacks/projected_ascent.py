"""Projected gradient ascent with restarts as an ART attack: the template of the adaptive attacks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.base.ascent import (
    SCHEDULES,
    AscentResult,
    LossFunction,
    Steps,
    ascend,
    loss_on_logits,
    margin_of,
)
from art_sensreg.attacks.base.inputs import CheckedAttack, attack_images, attack_number, attack_range
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.attacks.base.norms import Ball, norm_name, per_example
from art_sensreg.attacks.base.predictions import labels_of, predicted_labels
from art_sensreg.attacks.wrappers.torch_model import check_classifier, differentiable_model
from art_sensreg.utils import check_choice, check_count, check_seed, enable_grad
from art_sensreg.utils.model_rng import preserve_rng_state
from art_sensreg.utils.modes import eval_mode
from art_sensreg.utils.rng import derive_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Victim:
    """
    What one restart of an attack works on: the images that are still classified correctly, `(n, ...)`, and their
    labels. The generator is on the CPU; the pool holds images and labels of several classes, which guide towards other
    classes.
    """

    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    ball: Ball
    restart: int
    generator: torch.Generator
    pool: tuple[torch.Tensor, torch.Tensor]


class ProjectedAscent(CheckedAttack):
    """
    Projected gradient ascent with restarts; each restart attacks only the images that earlier ones did not break.

    Stronger than ART's PGD at the same number of steps: every iterate counts, not only the last, and preprocessing
    without a useful gradient gets a straight-through one. To write your own attack, subclass it and override
    :meth:`get_loss_fn`, :meth:`get_start` or :meth:`get_steps`.

    | Paper link: https://arxiv.org/abs/1706.06083 (Madry et al. 2018)

    :param estimator: ART PyTorch classifier.
    :param norm: `np.inf`, 2 or 1; or `linf`, `l2`, `l1`.
    :param eps: Size of the perturbation, in the user's units.
    :param eps_step: Size of a step; None: `2.5 * eps / max_iter`, which reaches the border from any start.
    :param max_iter: Number of steps.
    :param nb_restarts: Number of restarts.
    :param loss: `cross_entropy`, `margin` or `logits_ratio`.
    :param schedule: `constant` or `cosine` steps.
    :param batch_size: Number of images attacked together.
    :param seed: Seed of the random starts; the global generators are left alone.
    :raises TypeError: If the classifier is not a PyTorch one, or a setting has the wrong type.
    :raises ValueError: If a setting is out of range.

    Example:
    >>> from art_sensreg.attacks import ProjectedAscent
    >>> classifier = PyTorchClassifier(nn.Identity(), nn.CrossEntropyLoss(), (2,), 2, clip_values=(0.0, 1.0))
    >>> ProjectedAscent(classifier, eps=0.1, max_iter=10).generate(np.array([[0.6, 0.5]], dtype=np.float32)).round(2)
    array([[0.5, 0.6]], dtype=float32)
    """

    attack_params: ClassVar[list[str]] = [
        *CheckedAttack.attack_params,
        *("norm", "eps", "eps_step", "max_iter", "nb_restarts", "loss", "schedule", "batch_size", "seed"),
    ]
    _estimator_requirements = (PyTorchClassifier,)

    def __init__(
        self,
        estimator: PyTorchClassifier,
        norm: Any = np.inf,
        eps: float = 0.3,
        eps_step: float | None = None,
        max_iter: int = 40,
        nb_restarts: int = 1,
        loss: str = "cross_entropy",
        schedule: str = "constant",
        batch_size: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(estimator=check_classifier(estimator))
        self._warned = False
        self.norm, self.eps, self.eps_step = norm, eps, eps_step
        self.max_iter, self.nb_restarts, self.loss, self.schedule = max_iter, nb_restarts, loss, schedule
        self.batch_size, self.seed = batch_size, seed
        self._settle()

    # --- the hooks --------------------------------------------------------------------------------------------------

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """
        The loss that a restart maximises.

        :param victim: What is attacked.
        :return: Function from perturbed images to the loss of each and the logits.
        """
        return loss_on_logits(victim.model, victim.y, LOSSES[self.loss])

    def get_start(self, victim: Victim) -> torch.Tensor:
        """
        Where a restart begins.

        :param victim: What is attacked.
        :return: Perturbed images.
        """
        return victim.ball.inside(victim.x, victim.generator)

    def get_steps(self, victim: Victim) -> Steps:
        """
        The steps of a restart.

        :param victim: What is attacked.
        :return: Number and sizes of the steps.
        """
        step = 2.5 * self.eps / self.max_iter if self.eps_step is None else self.eps_step
        return Steps(eps_step=step, max_iter=self.max_iter, schedule=self.schedule)

    def get_pool(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Images of several classes, which guide towards other classes.

        :param x: The batch that is attacked.
        :param y: Its labels.
        :return: Images and class indices.
        """
        return x, y

    @property
    def attempts(self) -> int:
        """The maximum number of restarts per image."""
        return self.nb_restarts

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Inside, models are in evaluation mode and the generators seeded; afterwards all is as before."""
        model, device = self.estimator.model, self.estimator.device
        with enable_grad(), eval_mode(model), preserve_rng_state(device, derive_seed(self.seed, "model")):
            yield

    # --- the template -----------------------------------------------------------------------------------------------

    def _generate(self, x: Any, y: Any) -> np.ndarray:
        self._warned = False
        images = attack_images(x, self.estimator)
        device, found = self.estimator.device, np.array(images)
        with self.isolated():
            labels = self._labels(images, y)
            model = differentiable_model(self.estimator)
            for first in range(0, len(images), self.batch_size):
                chosen = slice(first, first + self.batch_size)
                batch = torch.from_numpy(images[chosen]).to(device), torch.from_numpy(labels[chosen]).to(device)
                found[chosen] = self.perturb(model, *batch, first).cpu().numpy()
        return found

    def perturb(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, first: int = 0) -> torch.Tensor:
        """
        Attack one batch.

        :param model: Module from images in the user's units to logits, in evaluation mode.
        :param x: Images.
        :param y: Class indices.
        :param first: Index of the first image, from which the random numbers are derived.
        :return: Perturbed images; those that are misclassified already are returned unchanged.
        """
        ball, pool = self._ball(x), self.get_pool(x, y)
        best, best_margin = x.clone(), margin_of(model, x, y)
        for restart in range(self.attempts):
            left = torch.nonzero(best_margin <= 0)[:, 0]
            if not len(left):
                break
            generator = torch.Generator().manual_seed(derive_seed(self.seed, type(self).__name__, first, restart))
            victim = Victim(
                model=model, x=x[left], y=y[left], ball=ball, restart=restart, generator=generator, pool=pool
            )
            found = self.attempt(victim)
            self._warn_if_detached(found)
            better = found.margin > best_margin[left]
            best[left] = torch.where(per_example(better, x), found.perturbed, best[left])
            best_margin[left] = torch.where(better, found.margin, best_margin[left])
        return best

    def attempt(self, victim: Victim) -> AscentResult:
        """
        One restart.

        :param victim: What is attacked.
        :return: What was found; its margins are those of the attacked model.
        """
        loss_fn, start = self.get_loss_fn(victim), self.get_start(victim)
        return ascend(loss_fn, victim.x, victim.y, victim.ball, start, self.get_steps(victim))

    def _ball(self, x: torch.Tensor) -> Ball:
        low, high = (torch.as_tensor(end, device=x.device, dtype=x.dtype) for end in attack_range(self.estimator))
        return Ball(self.norm, self.eps, low, high)

    def _labels(self, images: np.ndarray, y: Any) -> np.ndarray:
        return predicted_labels(self.estimator, images) if y is None else labels_of(self.estimator, y, len(images))

    def _warn_if_detached(self, found: AscentResult) -> None:
        if found.detached and not self._warned:
            self._warned = True
            logger.warning(
                "%s: autograd finds no path from the images to the loss: something in the model detaches, converts to "
                "numpy, or runs without gradients. The attack stays at its starting points, and images that it does "
                "not break need not be robust. Wrap that part in art_sensreg.attacks.BPDA.",
                type(self).__name__,
            )

    def _check_params(self) -> None:
        self.norm, self.eps = norm_name(self.norm), attack_number("eps", self.eps)
        if self.eps_step is not None:
            self.eps_step = attack_number("eps_step", self.eps_step)
        for name in ("max_iter", "nb_restarts", "batch_size"):
            check_count(name, getattr(self, name))
            setattr(self, name, int(getattr(self, name)))
        check_seed("seed", self.seed)
        check_choice("loss", self.loss, tuple(LOSSES))
        check_choice("schedule", self.schedule, SCHEDULES)
