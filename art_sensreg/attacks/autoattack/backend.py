"""The attacks of the package pyautoattack one at a time, without the side effects of its own loop."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
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
# Fewest classes: the logits ratio divides by the gap to the third logit, the targeted one by that to the fourth too.
MIN_CLASSES = {"apgd-ce": 2, "apgd-dlr": 3, "apgd-t": 4, "fab": 2, "fab-t": 2, "square": 2}
_PACKAGE_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, kw_only=True)
class BackendSettings:
    """
    What the package is told, about images in [0, 1]; `version` is a key of `VERSIONS`, or `custom` with its stages in
    `attacks`. A strength (the last four) that is None is the package's own.
    """

    nb_classes: int
    norm: str
    eps: float
    version: str = "standard"
    attacks: tuple[str, ...] | None = None
    seed: int = 0
    device: Any = "cpu"
    nb_iter: int | None = None
    nb_queries: int | None = None
    nb_restarts: int | None = None
    eot_iter: int | None = None


class AutoAttackBackend:
    """
    What `pyautoattack.AutoAttack` makes of a version, for images `(n, channels, height, width)` in [0, 1]: one attack
    of each kind, and its checks. ImportError if pyautoattack is missing.
    """

    def __init__(self, model: nn.Module, settings: BackendSettings) -> None:
        self.warnings: list[str] = []
        """The warnings of the package, each text once."""
        self._settings = settings
        self.package = auto_attack_class()(
            model,
            norm=_PACKAGE_NORMS[settings.norm],
            eps=settings.eps,
            seed=settings.seed,
            device=settings.device,
            version=settings.version,
            attacks=None if settings.attacks is None else list(settings.attacks),
        )
        self._apgds = (self.package.apgd, self.package.apgd_targeted)
        for attack in (self.package, *self._apgds):
            attack.logger = _collecting_logger(self.warnings)
        for attack in (self.package.apgd_targeted, self.package.fab):  # with fewer than ten classes their 9 fail
            attack.n_target_classes = min(attack.n_target_classes, settings.nb_classes - 1)
        self._apply_strength()

    def _apply_strength(self) -> None:
        package, wanted = self.package, self._settings
        if wanted.nb_iter is not None:
            package.fab.n_iter = wanted.nb_iter
            for attack in self._apgds:
                attack.n_iter = attack.n_iter_orig = wanted.nb_iter
                # The rule of their constructor for the steps at which the step size is adapted (the paper's section 3).
                attack.n_iter_2 = max(int(0.22 * wanted.nb_iter), 1)
                attack.n_iter_min = max(int(0.06 * wanted.nb_iter), 1)
                attack.size_decr = max(int(0.03 * wanted.nb_iter), 1)
        if wanted.eot_iter is not None:
            for attack in self._apgds:
                attack.eot_iter = wanted.eot_iter
        if wanted.nb_restarts is not None:
            for attack in (*self._apgds, package.fab, package.square):
                attack.n_restarts = wanted.nb_restarts
        if wanted.nb_queries is not None:
            package.square.n_queries = wanted.nb_queries

    def perturb(self, stage: str, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One stage on one batch, as in `run_standard_evaluation`: perturbed images, and which are misclassified."""
        check_choice("stage", stage, tuple(MIN_CLASSES))
        package = self.package
        if stage == "apgd-t":
            attack = package.apgd_targeted
        elif stage == "square":
            attack = package.square
        elif stage.startswith("apgd"):
            attack = package.apgd
            attack.loss = stage.removeprefix("apgd-")
        else:
            attack = package.fab
            attack.targeted = stage == "fab-t"
            if attack.targeted and self._settings.nb_restarts is None:
                attack.n_restarts = 1
        with torch.no_grad(), default_dtype(torch.float32):  # the package mixes new tensors with its float32 images
            perturbed = attack.perturb(x, y)
            broken = package.get_logits(perturbed).max(dim=1)[1] != y
        return perturbed, broken

    def check_defence(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """The package's checks before the attack: for random outputs, probabilities, and autograd inside."""
        from pyautoattack import checks

        package, log = self.package, self.package.logger
        if self._settings.version != "rand":
            checks.check_randomized(package.get_logits, x, y, bs=len(x), logger=log)
        checks.check_range_output(package.get_logits, x, logger=log)
        # It counts calls for the whole process and never resets the counts; and it ends any tracing in progress.
        checks.funcs.update(dict.fromkeys(checks.funcs, 0))
        tracing = sys.gettrace()
        try:
            checks.check_dynamic(package.model, x, False, logger=log)
        finally:
            sys.settrace(tracing)

    def check_square(self, accuracies: dict[str, float]) -> None:
        """
        The package's check after the attack, from the robust accuracy of `clean` and after each stage: whether Square
        broke images that gradients had not.
        """
        from pyautoattack import checks

        checks.check_square_sr(accuracies, logger=self.package.logger)


def auto_attack_class() -> Any:
    """`pyautoattack.AutoAttack`, of the optional package; an ImportError says how to install it."""
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ImportError("AutoAttack needs the package pyautoattack: pip install 'art_sensreg[bench]'") from error
    return AutoAttack


def _collecting_logger(texts: list[str]) -> logging.Logger:
    """A logger of our own, because all attacks of a process share the package's; each warning is kept once."""

    def collect(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno >= logging.WARNING and text not in texts:
            texts.append(text)
            logger.warning("AutoAttack: %s", text)
        return False

    collecting = logging.Logger("auto-attack")
    collecting.addFilter(collect)
    return collecting


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set torch's default dtype temporarily."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        yield
    finally:
        torch.set_default_dtype(before)
