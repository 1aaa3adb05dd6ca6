"""Adversarial examples of other models, tried on the attacked one: its own gradients should find as many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.attacks.base.ascent import LossFunction
from art_sensreg.attacks.base.losses import LOSSES
from art_sensreg.attacks.projected_ascent import ProjectedAscent, Victim
from art_sensreg.attacks.wrappers.torch_model import check_classifier, differentiable_model
from art_sensreg.utils import check_differentiable, check_flag
from art_sensreg.utils.modes import eval_mode


class TransferAttack(ProjectedAscent):
    """
    Projected ascent on surrogates of the attacked model, one after the other and then on all together.

    Every iterate is tried on the attacked model, of which only the logits are used.

    | Paper link: https://arxiv.org/abs/1611.02770 (Liu et al. 2017: ensembles of surrogates)

    :param estimator: ART PyTorch classifier that is attacked.
    :param surrogates: Classifiers of the same images and classes: the twin, an adversarially trained one, ...
    :param ensemble: Whether the mean of the log-probabilities of all surrogates is attacked too, if there are several.
    :param nb_restarts: Number of restarts of each.
    :param settings: As for :class:`ProjectedAscent`.
    :raises TypeError: If a setting has the wrong type, or a surrogate is not one of ART's PyTorch classifiers.
    :raises ValueError: If a setting is out of range, there is no surrogate, or one takes other images or classes.

    Example:
    >>> from art_sensreg.attacks import TransferAttack
    >>> flat = nn.Threshold(2.0, 0.0)  # all logits are 0 up to 2, and so are their gradients
    >>> models = [nn.Sequential(nn.Linear(2, 2), flat), nn.Identity()]
    >>> attacked, twin = (PyTorchClassifier(model, nn.CrossEntropyLoss(), (2,), 2) for model in models)
    >>> TransferAttack(attacked, [twin], eps=0.1).generate(np.array([[0.6, 0.5]], dtype=np.float32)).shape
    (1, 2)
    """

    attack_params: ClassVar[list[str]] = [*ProjectedAscent.attack_params, "surrogates", "ensemble"]

    def __init__(
        self,
        estimator: PyTorchClassifier,
        surrogates: Sequence[PyTorchClassifier],
        ensemble: bool = True,
        nb_restarts: int = 1,
        **settings: Any,
    ) -> None:
        self.surrogates, self.ensemble = surrogates, ensemble
        super().__init__(estimator, nb_restarts=nb_restarts, **settings)

    @property
    def attempts(self) -> int:
        """The maximum number of restarts per image."""
        together = self.ensemble and len(self.surrogates) > 1
        return self.nb_restarts * (len(self.surrogates) + together)

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """As for other attacks; the surrogates are in evaluation mode too."""
        with ExitStack() as stack:
            stack.enter_context(super().isolated())
            for number, surrogate in enumerate(self.surrogates):
                check_differentiable(surrogate.model, f"surrogates[{number}]")
                stack.enter_context(eval_mode(surrogate.model))
            yield

    def get_loss_fn(self, victim: Victim) -> LossFunction:
        """The loss of the surrogates, and the logits of the attacked model."""
        number = victim.restart // self.nb_restarts
        chosen = self.surrogates if number == len(self.surrogates) else [self.surrogates[number]]
        models: list[tuple[nn.Module, torch.device]] = [(differentiable_model(one), one.device) for one in chosen]
        loss = LOSSES[self.loss]

        def loss_fn(perturbed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            all_logits = [model(perturbed.to(device)).to(perturbed.device) for model, device in models]
            together = torch.stack([F.log_softmax(logits, dim=1) for logits in all_logits]).mean(0)
            with torch.no_grad():
                logits = victim.model(perturbed)
            return loss(all_logits[0] if len(models) == 1 else together, victim.y), logits

        return loss_fn

    def _check_params(self) -> None:
        super()._check_params()
        if not isinstance(self.surrogates, Sequence):
            raise TypeError(f"`surrogates` is {type(self.surrogates).__name__}; expected a list of classifiers.")
        if not self.surrogates:
            raise ValueError("`surrogates` is empty; expected at least one classifier.")
        check_flag("ensemble", self.ensemble)
        for number, surrogate in enumerate(self.surrogates):
            try:
                check_classifier(surrogate)
            except TypeError as error:
                raise TypeError(f"`surrogates[{number}]`: {error}") from error
            for name in ("input_shape", "nb_classes", "clip_values"):
                theirs, ours = getattr(surrogate, name), getattr(self.estimator, name)
                if name == "clip_values" and (theirs is None or ours is None):
                    continue
                if not np.array_equal(np.asarray(theirs), np.asarray(ours)):
                    raise ValueError(
                        f"`surrogates[{number}]` has `{name}` {theirs}; expected {ours}, as for the classifier."
                    )
