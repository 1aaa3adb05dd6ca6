"""The attacks of the package pyautoattack one at a time, without what its loop does to the process around it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from art_sensreg.utils import check_choice

logger = logging.getLogger(__name__)

VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
# Fewest classes: the logits ratio divides by the distance to the third logit, the targeted one by the fourth as well.
MIN_CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
_THEIR_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, kw_only=True)
class Strength:
    """
    How long attacks run; None: as their authors have it.

    :param nb_iter: Steps of APGD and FAB.
    :param nb_queries: Queries of Square.
    :param nb_restarts: Restarts of each stage.
    :param eot_iter: Gradients that APGD averages.

    Example:
    >>> from art_sensreg.attacks.autoattack.backend import Strength
    >>> Strength(nb_iter=20)
    Strength(nb_iter=20, nb_queries=None, nb_restarts=None, eot_iter=None)
    """

    nb_iter: int | None = None
    nb_queries: int | None = None
    nb_restarts: int | None = None
    eot_iter: int | None = None


class AuthorsAttacks:
    """
    What `pyautoattack.AutoAttack` makes of a version: one attack of each kind, and its checks.

    :param model: Module from pictures in [0, 1] to logits, in evaluation mode.
    :param nb_classes: Number of classes.
    :param norm: `linf`, `l2` or `l1`.
    :param eps: Size of the perturbation, of pictures in [0, 1].
    :param version: A key of `VERSIONS`, or `custom`.
    :param attacks: Stages of `custom`, else None.
    :param seed: Seed of every stage and batch.
    :param device: Where the model is.
    :param strength: How long they run.
    :raises ImportError: If pyautoattack is missing.

    Example:
    >>> from art_sensreg.attacks.autoattack.backend import AuthorsAttacks
    >>> attacks = AuthorsAttacks(nn.Flatten(), nb_classes=4, norm="linf", eps=0.1)
    >>> x, y = torch.tensor([0.6, 0.5, 0.0, 0.0]).view(1, 1, 1, 4), torch.tensor([0])
    >>> perturbed, broken = attacks.perturb("apgd-ce", x, y)
    >>> (perturbed - x).abs().max(), broken
    (tensor(0.1000), tensor([True]))
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        nb_classes: int,
        norm: str,
        eps: float,
        version: str = "standard",
        attacks: Sequence[str] | None = None,
        seed: int = 0,
        device: Any = "cpu",
        strength: Strength | None = None,
    ) -> None:
        self.warnings: list[str] = []
        """What the package warned of, each text once."""
        self.version, self._strength = version, strength or Strength()
        named = None if attacks is None else list(attacks)
        kind, settings = auto_attack_class(), {"device": device, "seed": seed, "version": version, "attacks": named}
        self._theirs = kind(model, norm=_THEIR_NORMS[norm], eps=eps, **settings)
        for attack in (self._theirs, self._theirs.apgd, self._theirs.apgd_targeted):
            attack.logger = _collecting_logger(self.warnings)
        for attack in (self._theirs.apgd_targeted, self._theirs.fab):  # with fewer than ten classes their 9 fail
            attack.n_target_classes = min(attack.n_target_classes, nb_classes - 1)
        self._apply_strength()

    def _apply_strength(self) -> None:
        theirs, strength = self._theirs, self._strength
        apgds = (theirs.apgd, theirs.apgd_targeted)
        if strength.nb_iter is not None:
            theirs.fab.n_iter = strength.nb_iter
            for attack in apgds:
                attack.n_iter = attack.n_iter_orig = strength.nb_iter
                # Their constructor's rule for the steps at which the step size is looked at (the paper's section 3).
                for name, share in {"n_iter_2": 0.22, "n_iter_min": 0.06, "size_decr": 0.03}.items():
                    setattr(attack, name, max(int(share * strength.nb_iter), 1))
        for attack in apgds if strength.eot_iter is not None else ():
            attack.eot_iter = strength.eot_iter
        for attack in (*apgds, theirs.fab, theirs.square) if strength.nb_restarts is not None else ():
            attack.n_restarts = strength.nb_restarts
        if strength.nb_queries is not None:
            theirs.square.n_queries = strength.nb_queries

    def perturb(self, stage: str, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        One stage on one batch, as in the authors' `run_standard_evaluation`.

        :param stage: A key of `MIN_CLASSES`.
        :param x: Pictures in [0, 1], `(n, channels, height, width)`.
        :param y: Class indices, `(n,)`.
        :return: Perturbed pictures, and which of them are misclassified.
        """
        check_choice("stage", stage, tuple(MIN_CLASSES))
        theirs = self._theirs
        if stage == "apgd-t":
            attack = theirs.apgd_targeted
        elif stage == "square":
            attack = theirs.square
        elif stage.startswith("apgd"):
            attack = theirs.apgd
            attack.loss = stage.removeprefix("apgd-")
        else:
            attack = theirs.fab
            attack.targeted = stage == "fab-t"
            if attack.targeted and self._strength.nb_restarts is None:
                attack.n_restarts = 1
        with torch.no_grad(), default_dtype(torch.float32):
            perturbed = attack.perturb(x, y)
            broken = theirs.get_logits(perturbed).max(dim=1)[1] != y
        return perturbed, broken

    def check_defence(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """
        The authors' checks of the model, before the attack: for random outputs, probabilities, and autograd inside.

        :param x: Pictures in [0, 1].
        :param y: Class indices.
        """
        from pyautoattack import checks

        theirs, log = self._theirs, self._theirs.logger
        if self.version != "rand":
            checks.check_randomized(theirs.get_logits, x, y, bs=len(x), logger=log)
        checks.check_range_output(theirs.get_logits, x, logger=log)
        # Their counts of calls are the process's and never set back; and they end whatever tracing there was.
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))
        tracing = sys.gettrace()
        try:
            checks.check_dynamic(theirs.model, x, False, logger=log)
        finally:
            sys.settrace(tracing)

    def check_square(self, accuracies: dict[str, float]) -> None:
        """
        The authors' check after the attack: whether Square broke what gradients had not.

        :param accuracies: Robust accuracy of `clean` and after each stage.
        """
        from pyautoattack import checks

        checks.check_square_sr(accuracies, logger=self._theirs.logger)


def auto_attack_class() -> Any:
    """
    The class of the optional package.

    :return: `pyautoattack.AutoAttack`.
    :raises ImportError: If the package is missing.

    Example:
    >>> from art_sensreg.attacks.autoattack.backend import auto_attack_class
    >>> auto_attack_class().__name__
    'AutoAttack'
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ImportError("AutoAttack needs the package pyautoattack: pip install 'art_sensreg[bench]'") from error
    return AutoAttack


class _Collector(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.texts:
            self.texts.append(text)
            logger.warning("AutoAttack: %s", text)


def _collecting_logger(texts: list[str]) -> logging.Logger:
    # One of its own: theirs is shared by all attacks of the process.
    collecting = logging.Logger("auto-attack")
    collecting.addHandler(_Collector(texts))
    return collecting


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """
    Inside, new tensors are of a type by default: pyautoattack mixes them with its images, which are float32.

    :param dtype: The type.

    Example:
    >>> from art_sensreg.attacks.autoattack.backend import default_dtype
    >>> with default_dtype(torch.float64):
    ...     torch.zeros(1).dtype
    torch.float64
    """
    before = torch.get_default_dtype()
    try:
        if dtype != before:
            torch.set_default_dtype(dtype)
        yield
    finally:
        if dtype != before:
            torch.set_default_dtype(before)
