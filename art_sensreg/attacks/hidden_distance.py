"""The attack on what sensitivity regularisation suppresses: distances between hidden activations."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.base.ascent import LossFunction
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.attacks.base.other_classes import cheapest, check_guides, likely_classes
from art_sensreg.attacks.projected_ascent import ProjectedAscent, Victim
from art_sensreg.penalties.forward.taps import ActivationTaps, Layers, check_layers
from art_sensreg.utils import check_choice, check_number

logger = logging.getLogger(__name__)

DIRECTIONS = ("away", "towards")


@dataclass(frozen=True)
class TappedModel:
    """
    A model that returns its hidden activations, read from `tapped` inside it, beside its logits. They are copied
    (`clone`) if the model overwrites them; `kept` are the indices of those that have one entry for each image, None:
    the logits are taken instead.
    """

    model: nn.Module
    tapped: nn.Module
    layers: Layers
    clone: bool = False
    kept: tuple[int, ...] | None = None

    @classmethod
    def plan(cls, model: nn.Module, tapped: nn.Module, layers: Layers, x: torch.Tensor) -> TappedModel:
        """Find out on two images which activations there are; if none is usable, the logits are used."""
        images = x[:2]
        with torch.no_grad(), ActivationTaps(tapped, layers) as taps:
            logits = model(images)
        found = taps.read(logits)
        kept = tuple(index for index, (_, value) in enumerate(found) if _is_usable(value, images))
        if not kept:
            logger.info("%s has no hidden activations: the distance of the logits is used.", type(tapped).__name__)
        return cls(model, tapped, layers, taps.overwritten, kept or None)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits `(n, C)` and the activations of each layer, `(n, N_l)`."""
        if self.kept is None:
            logits = self.model(x)
            return logits, [logits]
        with ActivationTaps(self.tapped, self.layers, clone=self.clone) as taps:
            logits = self.model(x)
        found = taps.read(logits)
        return logits, [found[index][1].flatten(1).to(logits.dtype) for index in self.kept]


def _is_usable(value: torch.Tensor, images: torch.Tensor) -> bool:
    """Whether an activation has one entry for each image; what `vmap` computed cannot be used outside of it."""
    inner = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return not inner and value.shape[:1] == images.shape[:1]


def relative_distance(hidden: list[torch.Tensor], reference: list[torch.Tensor]) -> torch.Tensor:
    """Mean over the layers of the squared distance `(n,)`, each relative to the reference's mean squared norm."""
    distances = []
    for layer, wanted in zip(hidden, reference, strict=True):
        size = wanted.pow(2).sum(1).mean().detach()
        distances.append((layer - wanted).pow(2).sum(1) / size.clamp_min(torch.finfo(size.dtype).tiny))
    return torch.stack(distances).mean(0)


@dataclass(frozen=True, kw_only=True)
class HiddenLoss:
    """
    A loss plus the weighted distance of hidden activations from a reference.

    :param guide: None: away from the image's own activations. Else towards those of an image of another class: 0: the
        nearest in the last layer; odd numbers: the nearest of the most likely other class, of the second, ...; even
        numbers: a random one.
    :param base: Name of the loss; None: the distance alone.
    :param weight: Factor of the distance.
    """

    guide: int | None
    base: str | None
    weight: float = 1.0

    def loss_fn(self, tapped: TappedModel, victim: Victim) -> LossFunction:
        """The loss as a function of perturbed images."""
        reference, sign = self._reference(tapped, victim)

        def loss_fn(perturbed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits, hidden = tapped(perturbed)
            distance = sign * relative_distance(hidden, reference)
            if self.base is None:
                return distance, logits
            return LOSSES[self.base](logits, victim.y) + self.weight * distance, logits

        return loss_fn

    def _reference(self, tapped: TappedModel, victim: Victim) -> tuple[list[torch.Tensor], torch.Tensor]:
        """
        Activations of each layer, and the sign of the distance in the loss, `(n,)`.

        Where there is no image of another class, the direction is away.
        """
        x, y, (guides, classes) = victim.x, victim.y, victim.pool
        with torch.no_grad():
            own = tapped(x)[1]
            if self.guide is None:
                return own, torch.ones(len(x), device=x.device, dtype=x.dtype)
            logits, others = tapped(guides)
        cost = torch.cdist(own[-1], others[-1]).nan_to_num()
        if self.guide % 2:
            likely = likely_classes(victim.model, x, y)
            wanted = likely[:, min(self.guide // 2, likely.shape[1] - 1)]
            cost = cost + (classes != wanted[:, None]) * (cost.max() + 1)
        elif self.guide:
            cost = torch.rand(cost.shape, generator=victim.generator, dtype=torch.float32).to(cost)
        # The hidden activations of a guide that is itself classified as the label would lead nowhere.
        chosen, found = cheapest(cost, (classes != y[:, None]) & (logits.argmax(1) != y[:, None]))
        pairs = zip(own, others, strict=True)
        reference = [torch.where(found[:, None], theirs[chosen], layer) for layer, theirs in pairs]
        return reference, torch.where(found, -1.0, 1.0).to(x)


class GuidedAscent(ProjectedAscent):
    """Projected ascent that may read hidden `layers`, and move towards `guides`; subclasses set both."""

    attack_params: ClassVar[list[str]] = [*ProjectedAscent.attack_params, "layers", "guides"]
    layers: Layers
    guides: Any

    def get_pool(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The guides: those given, or the batch."""
        return (x, y) if self.guides is None else check_guides(self.estimator, self.guides)

    def get_hidden_loss_fn(self, victim: Victim, loss: HiddenLoss) -> LossFunction:
        """A loss of hidden activations as a function of perturbed images."""
        return loss.loss_fn(TappedModel.plan(victim.model, self.estimator.model, self.layers, victim.x), victim)

    def _check_params(self) -> None:
        super()._check_params()
        check_layers(self.layers)
        ActivationTaps(self.estimator.model, self.layers)  # refuses names that the model does not have
        if self.guides is not None:
            check_guides(self.estimator, self.guides)


class HiddenDistanceAttack(GuidedAscent):
    """
    Projected ascent on a loss plus the hidden distances that sensitivity regularisation (SR) suppresses.

    Even if the loss has no useful gradient, hidden activations may still move. Every second restart omits the loss, so
    that a misleading gradient of the last layer cannot outweigh the hidden ones. Matching the hidden activations of a
    guide, an image of another class, is due to Sabour et al.

    | Paper link: https://arxiv.org/abs/1511.05122 (Sabour et al. 2016), https://arxiv.org/abs/2009.11349 (SR)

    :param estimator: ART PyTorch classifier.
    :param layers: As for :class:`SensitivityPenalty`: `hidden`, `pre_activation`, `logits`, `hidden+logits`, or a list
        of module names and classes. For a model without hidden activations (a linear one), its logits are used.
    :param direction: `away` from the image's own activations; `towards` those of an image of another class: the nearest
        in the last layer in the first two restarts, the nearest of the most likely other class in the next two, then a
        random one, the second most likely class, a random one, ...
    :param weight: Factor of the distance, which is relative to the mean squared norm of each layer's activations.
    :param guides: Images and labels to move towards; None: those of the attacked batch.
    :param nb_restarts: Number of restarts.
    :param settings: As for :class:`ProjectedAscent`.
    :raises TypeError: If a setting has the wrong type.
    :raises ValueError: If a setting is out of range, or the model has no such layer.

    Example:
    >>> from art_sensreg.attacks import HiddenDistanceAttack
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    >>> _ = model[0].weight.data.copy_(torch.eye(2))
    >>> classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (2,), 2, clip_values=(0.0, 1.0))
    >>> import numpy as np
    >>> x = np.array([[0.6, 0.5], [0.2, 0.9]], dtype=np.float32)
    >>> attack = HiddenDistanceAttack(classifier, direction="towards", eps=0.1)
    >>> classifier.predict(attack.generate(x)).argmax(axis=1).tolist()
    [1, 1]
    """

    attack_params: ClassVar[list[str]] = [*GuidedAscent.attack_params, "direction", "weight"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        layers: Layers = "hidden",
        direction: str = "away",
        weight: float = 1.0,
        guides: Any = None,
        nb_restarts: int = 4,
        **settings: Any,
    ) -> None:
        self.layers, self.direction, self.weight, self.guides = layers, direction, weight, guides
        super().__init__(estimator, nb_restarts=nb_restarts, **settings)

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """The loss plus the distance; in every second restart the distance alone."""
        guide = None if self.direction == "away" else victim.restart // 2
        base = None if victim.restart % 2 else self.loss
        return self.get_hidden_loss_fn(victim, HiddenLoss(guide=guide, base=base, weight=self.weight))

    def _check_params(self) -> None:
        super()._check_params()
        check_choice("direction", self.direction, DIRECTIONS)
        check_number("weight", self.weight, minimum=0.0)
