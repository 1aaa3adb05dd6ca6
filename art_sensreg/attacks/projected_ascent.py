"""Projected ascent with restarts as an ART attack: the template that the aimed attacks fill in."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.base.ascent import (
    SCHEDULES,
    Ascent,
    LossFunction,
    ascend,
    loss_on_logits,
    margin_of,
)
from art_sensreg.attacks.base.inputs import (
    CheckedAttack,
    attack_images,
    attack_number,
    attack_range,
)
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.attacks.base.norms import Ball, norm_name
from art_sensreg.attacks.base.predictions import labels_of, predicted_labels
from art_sensreg.attacks.wrappers.torch_model import check_classifier, differentiable_model
from art_sensreg.utils import check_choice, check_count, check_differentiable, check_seed, enable_grad
from art_sensreg.utils.checks import check_known
from art_sensreg.utils.model_rng import preserve_rng_state
from art_sensreg.utils.modes import eval_mode
from art_sensreg.utils.rng import derive_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Victim:
    """
    What one restart of an attack works on.

    :param model: Module from images in the user's units to logits.
    :param x: Images still to be broken, `(n, ...)`.
    :param y: Their labels, `(n,)`.
    :param ball: What is allowed.
    :param restart: Number of the restart.
    :param generator: Source of this restart's random numbers, on the CPU.
    :param pool: Images and labels of several classes, from which directions towards other classes are taken.
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
    Projected gradient ascent with restarts; each restart attacks only what the former ones left.

    Stronger than ART's at the same steps: every iterate counts, not only the last, and preprocessing is differentiated
    straight through. A template: an attack of one's own overrides :meth:`get_loss_fn` or :meth:`get_start`.

    | Paper link: https://arxiv.org/abs/1706.06083 (Madry et al. 2018)

    :param estimator: ART PyTorch classifier.
    :param norm: `np.inf`, 2 or 1; or `linf`, `l2`, `l1`.
    :param eps: Size of the perturbation, in the user's units.
    :param eps_step: Size of a step; None: `2.5 * eps / max_iter`, which reaches the border from any start.
    :param max_iter: Number of steps.
    :param nb_restarts: Number of restarts.
    :param loss: `cross_entropy`, `margin` or `logits_ratio`.
    :param schedule: `constant` or `cosine` steps.
    :param batch_size: Images attacked together.
    :param seed: Seed of the random starts; the global generators are left alone.
    :raises TypeError: If the classifier is not a PyTorch one, or a setting is of a wrong type.
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
        :return: Function of perturbed images, to the loss of each and the logits.
        """
        return loss_on_logits(victim.model, victim.y, LOSSES[self.loss])

    def get_start(self, victim: Victim) -> torch.Tensor:
        """
        Where a restart begins.

        :param victim: What is attacked.
        :return: Perturbed images.
        """
        return victim.ball.inside(victim.x, victim.generator)

    def get_step(self, victim: Victim) -> float:
        """
        The size of a step in a restart.

        :param victim: What is attacked.
        :return: Size, in the user's units.
        """
        return 2.5 * self.eps / self.max_iter if self.eps_step is None else self.eps_step

    def get_pool(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Images of several classes, from which directions towards other classes are taken.

        :param x: The batch that is attacked.
        :param y: Its labels.
        :return: Images and class indices.
        """
        return x, y

    def undisturbed(self) -> AbstractContextManager[Any]:
        """
        What surrounds an attack.

        :return: Context in which models are in evaluation mode and the global generators are seeded; afterwards all is
            as before.
        """
        with ExitStack() as stack:
            stack.enter_context(enable_grad())
            stack.enter_context(eval_mode(self.estimator.model))
            stack.enter_context(preserve_rng_state(self.estimator.device, derive_seed(self.seed, "model")))
            return stack.pop_all()  # unless something raised, which undoes what was done so far

    @property
    def attempts(self) -> int:
        """How often an image is attacked at most."""
        return self.nb_restarts

    # --- the template -----------------------------------------------------------------------------------------------

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """
        Perturb images.

        :param x: Images `(n, *input_shape)` of any real type, in the user's units, within `clip_values`.
        :param y: True labels; None: those that are predicted.
        :param kwargs: `mask` is not supported; an unknown argument is an error.
        :return: float32 images: misclassified where the attack succeeded, else the nearest to it that was met.
        :raises TypeError: If an argument is unknown, or `x` or `y` holds no numbers.
        :raises ValueError: If images or labels do not fit, images are outside of `clip_values`, or `mask` is given.
        """
        images = self._checked_images(x, kwargs)
        device, found = self.estimator.device, np.array(images)
        with self.undisturbed():
            labels = self._labels(images, y)
            model = differentiable_model(self.estimator)
            for first in range(0, len(images), self.batch_size):
                rows = slice(first, first + self.batch_size)
                batch = torch.from_numpy(images[rows]).to(device), torch.from_numpy(labels[rows]).to(device)
                found[rows] = self.perturb(model, *batch, first).cpu().numpy()
        return found

    _generate = generate

    def perturb(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, first: int = 0) -> torch.Tensor:
        """
        Attack one batch.

        :param model: Module from images in the user's units to logits, in evaluation mode.
        :param x: Images.
        :param y: Class indices.
        :param first: Number of the first row, from which the random numbers are derived.
        :return: Perturbed images; those that are misclassified already as they are.
        """
        ball, pool = self._ball(x), self.get_pool(x, y)
        best, best_margin = x.clone(), margin_of(model, x, y)
        for restart in range(self.attempts):
            left = torch.nonzero(best_margin <= 0)[:, 0]
            if not len(left):
                break
            generator = torch.Generator().manual_seed(derive_seed(self.seed, type(self).__name__, first, restart))
            victim = Victim(model, x[left], y[left], ball, restart, generator, pool)
            found = self.attempt(victim)
            self._note_gradients(found)
            better = found.margin > best_margin[left]
            rows = better.view(-1, *[1] * (x.ndim - 1))
            best[left] = torch.where(rows, found.perturbed, best[left])
            best_margin[left] = torch.where(better, found.margin, best_margin[left])
        return best

    def attempt(self, victim: Victim) -> Ascent:
        """
        One restart.

        :param victim: What is attacked.
        :return: What was found; its margins are those of the attacked model.
        """
        loss_fn, start = self.get_loss_fn(victim), self.get_start(victim)
        step = self.get_step(victim)
        return ascend(loss_fn, victim.x, victim.y, victim.ball, start, step, self.max_iter, self.schedule)

    def _ball(self, x: torch.Tensor) -> Ball:
        low, high = (torch.as_tensor(end, device=x.device, dtype=x.dtype) for end in attack_range(self.estimator))
        return Ball(self.norm, self.eps, low, high)

    def _labels(self, images: np.ndarray, y: Any) -> np.ndarray:
        return predicted_labels(self.estimator, images) if y is None else labels_of(self.estimator, y, len(images))

    def _note_gradients(self, found: Ascent) -> None:
        if found.detached and not self._warned:
            self._warned = True
            logger.warning(
                "%s: autograd sees no way from the images to the loss: something in the model detaches, converts to "
                "numpy, or runs without gradients. The attack stays at its starts, and what it leaves need not be "
                "robust. Wrap that part into art_sensreg.attacks.BPDA.",
                type(self).__name__,
            )

    def _checked_images(self, x: Any, unknown: dict[str, Any]) -> np.ndarray:
        if unknown.pop("mask", None) is not None:
            raise ValueError("`mask` is given; expected None: this attack changes all pixels.")
        check_known("generate()", unknown, ("x", "y"))
        self._warned = False
        check_differentiable(self.estimator.model, "estimator")
        return attack_images(x, self.estimator)

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


# ART's metaclass wraps `generate` to convert what is no array by `np.array`, which fails with numpy's own errors on
# tensors that require a gradient, are on a GPU or of bfloat16. Put back without the wrapper.
ProjectedAscent.generate = ProjectedAscent._generate  # type: ignore[method-assign]
