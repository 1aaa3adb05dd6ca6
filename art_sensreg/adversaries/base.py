"""The base class of adversaries: how a batch is perturbed, and how clean and adversarial losses are combined."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.forward.inner_ascent import Ascent, ClipValues, evaluated, inner_ascent
from art_sensreg.penalties.forward.noise import Randomness, draw_noise
from art_sensreg.utils import check_choice, check_number, outside_inference_mode, python_numbers

BaseLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
PAIRS = ("noisy", "adversarial", "start")


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """
    Base class of adversaries: gradient steps from a start, and how the losses of clean and adversarial images combine.

    Subclasses override the hooks below `perturb`. The model is in evaluation mode while it is attacked. In training,
    clean and adversarial images form one batch; if there are clean ones, BatchNorm's statistics come from those alone,
    as for the penalties.

    :param eps: Size of the perturbation, in input units.
    :param eps_step: Size of a step, in input units; None: that of the paper.
    :param clean_fraction: Share of the base loss computed on the clean images, from 0 (all adversarial) to below 1.
    :param pair: What the penalties compare: clean images with `noisy` copies; clean with `adversarial` images; or the
        images at the `start` of the gradient steps with those at their end, of which only the backward pass is extra.
        With the last two the penalties' `sigma`, `noise` and `probes` are ignored: differences are divided by the
        largest root mean square that they can have. With `start` the first step is taken in training mode:
        BatchNorm's statistics are those of the start, for both (of the clean images, if the loss needs those).
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting has the wrong type.

    Example:
    >>> from art_sensreg.adversaries import FGSMRS
    >>> FGSMRS(eps=0.1, clean_fraction=0.5, pair="adversarial")
    FGSMRS(eps=0.1, eps_step=None, clean_fraction=0.5, pair='adversarial')
    """

    eps: float
    eps_step: float | None = None
    clean_fraction: float = 0.0
    pair: str = "noisy"

    def __post_init__(self) -> None:
        python_numbers(self)
        check_number("eps", self.eps, minimum=0.0, exclusive=True)
        if self.eps_step is not None:
            check_number("eps_step", self.eps_step, minimum=0.0, exclusive=True)
        check_number("clean_fraction", self.clean_fraction, minimum=0.0, maximum=1.0, below=True)
        check_choice("pair", self.pair, PAIRS)

    @outside_inference_mode
    def perturb(
        self,
        model: nn.Module,
        x: torch.Tensor,
        y: torch.Tensor,
        base_loss: BaseLoss,
        generator: Randomness = None,
        clip_values: ClipValues | None = None,
    ) -> torch.Tensor:
        """
        Perturb a batch.

        :param model: Module from `(n, ...)` inputs to `(n, C)` logits; it keeps its mode.
        :param x: Clean images, `(n, ...)`.
        :param y: Labels in the form that the base loss expects.
        :param base_loss: Function of logits and labels, to a 0-d tensor.
        :param generator: Source of randomness.
        :param clip_values: Input range as two broadcastable tensors, or None.
        :return: Perturbed images, `(n, ...)`, without a graph.
        """
        x = x.detach()
        return self.perturb_from(model, x, self.draw_start(x, generator), y, base_loss, clip_values)

    @outside_inference_mode
    def perturb_from(
        self,
        model: nn.Module,
        x: torch.Tensor,
        start: torch.Tensor,
        y: torch.Tensor,
        base_loss: BaseLoss,
        clip_values: ClipValues | None = None,
    ) -> torch.Tensor:
        """
        Perturb a batch from a given start.

        :param model: As for :meth:`perturb`.
        :param x: Clean images, `(n, ...)`.
        :param start: Perturbations at which the steps begin, same shape.
        :param y: As for :meth:`perturb`.
        :param base_loss: As for :meth:`perturb`.
        :param clip_values: As for :meth:`perturb`.
        :return: Perturbed images, `(n, ...)`, without a graph.
        """
        x = x.detach()
        loss_fn = self.get_loss_fn(model, x, y, base_loss)
        return inner_ascent(model, loss_fn, x, x + start, self.ascent(clip_values))

    def ascent(self, clip_values: ClipValues | None = None) -> Ascent:
        """The steps, and the ball that they stay in."""
        return Ascent(eps=self.radius, eps_step=self.step, max_iter=self.steps, norm=self.ball, clip_values=clip_values)

    # --- hooks ------------------------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Number of gradient steps. One-step training may overfit to its attack catastrophically."""
        return 1

    @property
    def step(self) -> float:
        """Size of a step."""
        return self.eps if self.eps_step is None else self.eps_step

    @property
    def radius(self) -> float:
        """Radius of the ball that perturbed images stay in."""
        return self.eps

    @property
    def ball(self) -> str:
        """Norm of that ball."""
        return "linf"

    @property
    def needs_clean(self) -> bool:
        """Whether the loss needs the logits of the clean images."""
        return self.attacks_clean_logits or self.clean_fraction > 0

    @property
    def attacks_clean_logits(self) -> bool:
        """Whether the steps move the logits away from those of the clean images."""
        return False

    @property
    def start_radius(self) -> float:
        """Radius of the ball, in the adversary's norm, in which the steps begin."""
        return self.eps

    @property
    def carries(self) -> bool:
        """Whether the perturbation of each image is kept from epoch to epoch."""
        return False

    @property
    def free(self) -> bool:
        """Whether the training step's own input gradient moves the perturbation, instead of gradient steps."""
        return False

    @property
    def of_whole_batch(self) -> bool:
        """Whether the loss of a batch cannot be computed from those of its parts."""
        return False

    def at_strength(self, strength: float) -> Adversary:
        """The same with the weight of a second term of its loss, if it rises, times `strength`, from 0 to 1."""
        return self

    def at_size(self, share: float) -> Adversary:
        """The same with a share, above 0 and at most 1, of its `eps` and `eps_step`."""
        if share == 1:
            return self
        return replace(self, eps=share * self.eps, eps_step=None if self.eps_step is None else share * self.eps_step)

    @property
    def compares_gradients(self) -> bool:
        """Whether it takes one gradient step on the loss that is minimised at its end (see `gradient_pair`)."""
        own = type(self)
        hooks = ("get_loss_fn", "loss_fn_beside", "combine")
        same = all(getattr(own, hook) is getattr(Adversary, hook) for hook in hooks)
        return same and self.steps == 1 and not self.free

    @property
    def replays(self) -> int:
        """How often a batch is trained on in a row, with perturbations kept by place in it; 0: once, and by image."""
        return 0

    def root_mean_square(self, x: torch.Tensor) -> float:
        """Root mean square entry of the largest possible perturbation, in input units, before images are clipped."""
        return self.eps if self.ball == "linf" else self.eps / math.sqrt(x[0].numel())

    def pair_size(self, x: torch.Tensor) -> float:
        """The `s` of penalties: root mean square entry of the largest possible difference of what they compare."""
        if self.pair != "start":
            return self.root_mean_square(x)
        longest = min(self.steps * self.step, self.start_radius + self.radius)
        return longest if self.ball == "linf" else longest / math.sqrt(x[0].numel())

    def draw_start(self, x: torch.Tensor, generator: Randomness) -> torch.Tensor:
        """The perturbation at which the steps begin: by default uniform in the L-inf ball."""
        return uniform(x, self.eps, generator)

    def get_loss_fn(
        self, model: nn.Module, x: torch.Tensor, y: torch.Tensor, base_loss: BaseLoss
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function of the logits that the steps maximise."""
        return self.loss_fn_beside(evaluated(model, x) if self.attacks_clean_logits else None, y, base_loss)

    def loss_fn_beside(
        self, clean: torch.Tensor | None, y: torch.Tensor, base_loss: BaseLoss
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """That function, given the logits of the clean images, or None if it needs none."""
        return lambda logits: base_loss(logits, y)

    def combine(
        self, base_loss: BaseLoss, clean: torch.Tensor | None, adversarial: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The loss that replaces the base loss, and its adversarial part alone.

        `clean` logits are None if they are not needed and were not computed.
        """
        part = base_loss(adversarial, y)
        if clean is None or self.clean_fraction == 0:
            return part, part
        return self.clean_fraction * base_loss(clean, y) + (1 - self.clean_fraction) * part, part


def uniform(x: torch.Tensor, size: float, generator: Randomness = None) -> torch.Tensor:
    """Independent entries, uniform between `-size` and `size`, of the shape, dtype and device of `x`."""
    return draw_noise(x, "uniform", generator).mul_(size / math.sqrt(3))


def uniform_in_ball(x: torch.Tensor, size: float, norm: str, generator: Randomness = None) -> torch.Tensor:
    """Perturbations in a ball: uniform in that of `linf`; in that of `l2` of uniform direction and length."""
    if norm == "linf":
        return uniform(x, size, generator)
    direction = nn.functional.normalize(draw_noise(x, "gaussian", generator).flatten(1), dim=1)
    radius = uniform(x.new_zeros(len(x), 1), size, generator).abs()
    return (radius * direction).view_as(x)


def check_adversary(adversary: Any) -> Adversary | None:
    """Refuse what is neither None nor an :class:`Adversary`."""
    if adversary is not None and not isinstance(adversary, Adversary):
        raise TypeError(
            f"`adversary` is {adversary!r}; expected None, or an Adversary of art_sensreg.adversaries, such as "
            "CarriedAdversary(eps=0.1)."
        )
    return adversary
