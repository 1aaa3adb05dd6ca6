"""The attacks of an audit: the reference attack, which is run once, and what other attacks find beyond it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.utils import to_categorical
from torch import nn

from art_sensreg.attacks.base.ascent import AscentResult, Steps, ascend, loss_on_logits
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.auditing.context.audited_model import AuditedModel
from art_sensreg.auditing.context.inputs import AuditInputs
from art_sensreg.auditing.context.threat_model import ThreatModel

_BATCH = 512


@dataclass(frozen=True)
class PgdSettings:
    """
    Projected gradient ascent on the logits as ART's attacks see them.

    :param purpose: Text from which the seed of the random start is derived.
    :param loss: Name of the loss.
    :param start: `inside` or on the `border` of the ball, or `none` for the image itself.
    :param eps: Perturbation size; the audit's if None.
    :param max_iter: Number of steps; those of the effort if None.
    :param eps_step: Step size; `2.5 * eps / max_iter` if None.
    """

    purpose: tuple[int | str, ...]
    loss: str = "cross_entropy"
    start: str = "inside"
    eps: float | None = None
    max_iter: int | None = None
    eps_step: float | None = None


# What a check may try beyond the reference attack: a function gets indices and returns perturbed images.
Attack: TypeAlias = PgdSettings | EvasionAttack | Callable[[np.ndarray], np.ndarray]

# The restarts that complete the reference attack, each on the images that have survived so far.
_RESTARTS = tuple(
    PgdSettings(("reference", loss, start), loss, start)
    for loss, start in (
        ("logits_ratio", "inside"),
        ("cross_entropy", "border"),
        ("logits_ratio", "border"),
        ("margin", "inside"),
        ("margin", "border"),
    )
)


class SharedAttacks:
    """Runs attacks on the images of an audit; the classifier's own `predict` decides which of them succeed."""

    def __init__(self, inputs: AuditInputs, model: AuditedModel, threat: ThreatModel) -> None:
        self._inputs, self._model, self._threat = inputs, model, threat

    def pgd(self, indices: np.ndarray, settings: PgdSettings, module: nn.Module | None = None) -> AscentResult:
        """Attack the images at `indices`, through another differentiable model if one is given."""
        ball = self._threat.ball(settings.eps)
        max_iter = self._inputs.effort.steps if settings.max_iter is None else settings.max_iter
        eps_step = 2.5 * ball.eps / max(max_iter, 1) if settings.eps_step is None else settings.eps_step
        steps = Steps(eps_step=eps_step, max_iter=max_iter)
        generator = self._inputs.generator("ascent", *settings.purpose)
        module, loss, parts = module or self._model.module, LOSSES[settings.loss], []
        for batch in np.array_split(indices, max(1, -(-len(indices) // _BATCH))):
            x, y = self._model.tensors(batch)
            start = x if settings.start == "none" else getattr(ball, settings.start)(x, generator)
            parts.append(ascend(loss_on_logits(module, y, loss), x, y, ball, start, steps))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def succeeds(self, found: AscentResult | np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Which of the perturbed images are misclassified."""
        images = found if isinstance(found, np.ndarray) else found.perturbed.to("cpu", torch.float32).numpy()
        return ~self._model.is_correct(images, indices)

    def resisting(self, indices: np.ndarray, *attacks: Attack) -> np.ndarray:
        """Those of the indices whose images no attack breaks; each attack sees only what the previous ones left."""
        for attack in attacks:
            if len(indices):
                indices = indices[~self.succeeds(self._perturbed(attack, indices), indices)]
        return indices

    @cached_property
    def reference(self) -> AscentResult:
        """First part of the reference attack, on the correctly classified images: PGD on cross-entropy, one start."""
        return self.pgd(self._model.correct_indices, PgdSettings(("reference",)))

    @cached_property
    def survivors(self) -> np.ndarray:
        """Indices of the images that resist the reference attack: PGD with three losses, from inside and the border."""
        indices: np.ndarray = self._model.correct_indices
        return self.resisting(indices[~self.succeeds(self.reference, indices)], *_RESTARTS)

    @property
    def robust_accuracy(self) -> float:
        """Fraction of all images that resist the reference attack."""
        return len(self.survivors) / self._inputs.n

    def gain(self, *attacks: Attack) -> float:
        """Fraction of all images on which further attacks succeed and the reference attack did not."""
        return (len(self.survivors) - len(self.resisting(self.survivors, *attacks))) / self._inputs.n

    def _perturbed(self, attack: Attack, indices: np.ndarray) -> AscentResult | np.ndarray:
        if isinstance(attack, PgdSettings):
            return self.pgd(indices, attack)
        if not isinstance(attack, EvasionAttack):
            return attack(indices)
        labels = to_categorical(self._inputs.y[indices], self._model.classifier.nb_classes)
        images = attack.generate(self._inputs.x[indices].astype(self._model.array_dtype), y=labels)
        return np.asarray(images, dtype=np.float32)


def _joined(parts: list[AscentResult]) -> AscentResult:
    """The results of several batches as one."""
    sizes = torch.tensor([len(part.margin) for part in parts], dtype=torch.float32, device=parts[0].margin.device)
    mean = (torch.stack([part.losses for part in parts], 1) * sizes).sum(1) / sizes.sum()
    names = ("perturbed", "margin", "last_margin")
    joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **joined, losses=mean, margins=torch.cat([part.margins for part in parts], 1))
