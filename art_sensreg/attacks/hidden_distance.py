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
from art_sensreg.attacks.base.other_classes import check_donors, choose_donors, likely_classes
from art_sensreg.attacks.projected_ascent import ProjectedAscent, Victim
from art_sensreg.penalties.forward.taps import ActivationTaps, Layers, check_layers
from art_sensreg.utils import check_choice, check_number

logger = logging.getLogger(__name__)

DIRECTIONS = ("away", "towards")


@dataclass(frozen=True)
class TappedModel:
    """
    A model that returns its hidden activations beside its logits.

    :param model: Module from images in the user's units to logits.
    :param tapped: The model whose layers are meant, somewhere inside of it.
    :param layers: As for `ActivationTaps`.
    :param clone: Whether activations are copied, because something overwrites them.
    :param kept: Numbers of the activations that have one row for each image; None: the logits instead.

    Example:
    >>> from art_sensreg.attacks.hidden_distance import TappedModel
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> logits, hidden = TappedModel.plan(model, model, "hidden", torch.zeros(5, 4))(torch.zeros(5, 4))
    >>> logits.shape, [layer.shape for layer in hidden]
    (torch.Size([5, 2]), [torch.Size([5, 3])])
    """

    model: nn.Module
    tapped: nn.Module
    layers: Layers
    clone: bool = False
    kept: tuple[int, ...] | None = None

    @classmethod
    def plan(cls, model: nn.Module, tapped: nn.Module, layers: Layers, x: torch.Tensor) -> TappedModel:
        """
        Try out which activations there are.

        :param model: Module from images to logits, in evaluation mode.
        :param tapped: The model whose layers are meant.
        :param layers: As for `ActivationTaps`.
        :param x: Some images.
        :return: The tapped model; one that returns its logits again if there is nothing to tap.
        """
        rows = x[:2]
        with torch.no_grad(), ActivationTaps(tapped, layers) as taps:
            logits = model(rows)
        found = taps.read(logits)
        kept = tuple(number for number, (_, value) in enumerate(found) if _one_row_each(value, rows))
        if not kept:
            logger.info("%s has nothing to tap: the distance of the logits is attacked.", type(tapped).__name__)
        return cls(model, tapped, layers, taps.overwritten, kept or None)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Logits and activations.

        :param x: Images, `(n, ...)`.
        :return: Logits `(n, C)`, and the activations of each layer, `(n, N_l)`.
        """
        if self.kept is None:
            logits = self.model(x)
            return logits, [logits]
        with ActivationTaps(self.tapped, self.layers, clone=self.clone) as taps:
            logits = self.model(x)
        found = taps.read(logits)
        return logits, [found[number][1].flatten(1).to(logits.dtype) for number in self.kept]


def _one_row_each(value: torch.Tensor, rows: torch.Tensor) -> bool:
    """Whether an activation belongs to the images; what a vmapped function computed cannot be used outside of it."""
    inner = torch._C._functorch.is_functorch_wrapped_tensor(value)
    return not inner and value.shape[:1] == rows.shape[:1]


def relative_distance(hidden: list[torch.Tensor], reference: list[torch.Tensor]) -> torch.Tensor:
    """
    Mean over the layers of the squared distance, relative to the layer's mean squared size.

    :param hidden: Activations of each layer, `(n, N_l)`.
    :param reference: What they are compared with; sizes are taken from it.
    :return: `(n,)`.

    Example:
    >>> from art_sensreg.attacks.hidden_distance import relative_distance
    >>> relative_distance([torch.tensor([[1.0, 4.0]])], [torch.tensor([[1.0, 2.0]])])
    tensor([0.8000])
    """
    distances = []
    for layer, clean in zip(hidden, reference, strict=True):
        size = clean.pow(2).sum(1).mean().detach()
        distances.append((layer - clean).pow(2).sum(1) / size.clamp_min(torch.finfo(size.dtype).tiny))
    return torch.stack(distances).mean(0)


def hidden_reference(
    tapped: TappedModel, victim: Victim, choice: int | None
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """
    The activations that an image shall move away from, or towards.

    :param tapped: The tapped model.
    :param victim: What is attacked.
    :param choice: None: away from its own. Else towards those of an image of another class: 0: the nearest in the last
        layer; odd numbers: the nearest of the most likely other class, of the second, ...; even numbers: a random one.
    :return: Activations of each layer, and the sign of the distance in the loss, `(n,)`: where there is no image of
        another class, away after all.
    """
    x, y = victim.x, victim.y
    with torch.no_grad():
        own = tapped(x)[1]
        if choice is None:
            return own, torch.ones(len(x), device=x.device, dtype=x.dtype)
        logits, others = tapped(victim.pool[0])
    cost = torch.cdist(own[-1], others[-1]).nan_to_num()
    if choice % 2:
        likely = likely_classes(victim.model, x, y)
        wanted = likely[:, min(choice // 2, likely.shape[1] - 1)]
        cost = cost + (victim.pool[1] != wanted[:, None]) * (cost.max() + 1)
    elif choice:
        cost = torch.rand(cost.shape, generator=victim.generator, dtype=torch.float32).to(cost)
    # The hidden activations of a donor that is itself taken for the label would lead nowhere.
    allowed = (victim.pool[1] != y[:, None]) & (logits.argmax(1) != y[:, None])
    donors, found = choose_donors(cost, allowed)
    reference = [torch.where(found[:, None], theirs[donors], layer) for layer, theirs in zip(own, others, strict=True)]
    return reference, torch.where(found, -1.0, 1.0).to(x)


def hidden_loss(
    tapped: TappedModel, victim: Victim, choice: int | None, weight: float, base: str | None
) -> LossFunction:
    """
    A loss plus the weighted distance of hidden activations.

    :param tapped: The tapped model.
    :param victim: What is attacked.
    :param choice: As for :func:`hidden_reference`.
    :param weight: Factor of the distance.
    :param base: Name of the loss; None: the distance alone.
    :return: Function of perturbed images, to the loss of each and the logits.
    """
    reference, sign = hidden_reference(tapped, victim, choice)

    def loss_fn(perturbed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, hidden = tapped(perturbed)
        distance = sign * relative_distance(hidden, reference)
        if base is None:
            return distance, logits
        return LOSSES[base](logits, victim.y) + weight * distance, logits

    return loss_fn


class HiddenDistanceAttack(ProjectedAscent):
    """
    Projected ascent on a loss plus the hidden distances that sensitivity regularisation (SR) suppresses.

    A model whose loss has no useful gradient may still have hidden activations that move. Every second restart leaves
    the loss out, so that a misleading gradient of the last layer cannot outweigh the hidden ones. The idea of matching
    the hidden activations of an image of another class is that of Sabour et al.

    | Paper link: https://arxiv.org/abs/1511.05122 (Sabour et al. 2016), https://arxiv.org/abs/2009.11349 (SR)

    :param estimator: ART PyTorch classifier.
    :param layers: As for :class:`SensitivityPenalty`: `hidden`, `pre_activation`, `logits`, `hidden+logits`, or a list
        of module names and classes. A model that has nothing to tap (a linear one): its logits.
    :param direction: `away` from the image's own activations; `towards` those of an image of another class: the nearest
        in the last layer in the first two restarts, the nearest of the most likely other class in the next two, then a
        random one, the second most likely class, a random one, ...
    :param weight: Factor of the distance, which is relative to the mean squared size of each layer's activations.
    :param donors: Images and labels to move towards; None: those of the attacked batch.
    :param nb_restarts: Number of restarts.
    :param settings: As for :class:`ProjectedAscent`.
    :raises TypeError: If a setting is of a wrong type.
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

    attack_params: ClassVar[list[str]] = [
        *ProjectedAscent.attack_params,
        *("layers", "direction", "weight", "donors"),
    ]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        layers: Layers = "hidden",
        direction: str = "away",
        weight: float = 1.0,
        donors: Any = None,
        nb_restarts: int = 4,
        **settings: Any,
    ) -> None:
        self.layers, self.direction, self.weight, self.donors = layers, direction, weight, donors
        super().__init__(estimator, nb_restarts=nb_restarts, **settings)

    def get_pool(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        The donors.

        :param x: The batch that is attacked.
        :param y: Its labels.
        :return: Images and class indices: those given, or the batch.
        """
        return (x, y) if self.donors is None else check_donors(self.estimator, self.donors)

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """
        The loss that a restart maximises.

        :param victim: What is attacked.
        :return: Function of perturbed images, to the loss of each and the logits.
        """
        tapped = TappedModel.plan(victim.model, self.estimator.model, self.layers, victim.x)
        choice = None if self.direction == "away" else victim.restart // 2
        return hidden_loss(tapped, victim, choice, self.weight, None if victim.restart % 2 else self.loss)

    def _check_params(self) -> None:
        super()._check_params()
        check_layers(self.layers)
        ActivationTaps(self.estimator.model, self.layers)  # refuses names that the model has not
        check_choice("direction", self.direction, DIRECTIONS)
        check_number("weight", self.weight, minimum=0.0)
        if self.donors is not None:
            check_donors(self.estimator, self.donors)
