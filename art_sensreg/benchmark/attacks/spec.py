"""What the suite knows of an attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from art.estimators.classification import PyTorchClassifier

from art_sensreg.benchmark.config.settings import BUDGETS
from art_sensreg.benchmark.config.threat_models import NORMS

Settings = dict[str, Any]
Builder = Callable[[PyTorchClassifier, float, float, Settings], Any]


@dataclass(frozen=True)
class AttackSpec:
    """
    An attack of the suite.

    :param name: Name on the command line.
    :param summary: One line.
    :param paper: Its source.
    :param build: Function of the classifier, the norm (`np.inf`, 2 or 1), eps and the settings that returns an ART
        attack. Beside the strength the settings hold `seed`, `guides` (training images and labels) and `surrogates`.
    :param settings: Its strength by budget; `points` limits the number of images of a slow attack.
    :param default_from: The smallest budget at which it runs unless other attacks are named: `smoke`, `quick`, `full`.
    :param norms: Norms in which it is defined.
    :param minimal_norm: Whether it searches for the smallest perturbation: such an attack runs once, and succeeds at
        every eps that its perturbation does not exceed.
    :param min_classes: The smallest number of classes for which it is defined.
    :param art: Whether it is one of ART's; the others differentiate through preprocessing themselves.
    :param black_box: Whether it uses no gradients.
    :param square_images: Whether it fails on images that are not square.
    :param needs_surrogates: Whether it needs other trained models of the same run.
    :param package: A package that it needs and that only the extra `bench` installs, or "".

    Example:
    >>> from art.attacks.evasion import FastGradientMethod
    >>> from art_sensreg.benchmark.attacks import AttackSpec
    >>> AttackSpec(
    ...     "fgm", "One step", "-", lambda model, norm, eps, settings: FastGradientMethod(model, norm, eps)
    ... ).settings
    {'smoke': {}, 'quick': {}, 'full': {}}
    """

    name: str
    summary: str
    paper: str
    build: Builder
    settings: dict[str, Settings] = field(default_factory=lambda: {budget: {} for budget in BUDGETS})
    _: KW_ONLY
    default_from: str = "full"
    norms: tuple[str, ...] = tuple(NORMS)
    minimal_norm: bool = False
    min_classes: int = 2
    art: bool = True
    black_box: bool = False
    needs_surrogates: bool = False
    square_images: bool = False
    package: str = ""

    def refusal(self, norm: str, input_shape: tuple[int, ...]) -> str | None:
        """
        Why it cannot run, if so.

        :param norm: Norm of the perturbations.
        :param input_shape: Shape of an image.
        :return: The reason, or None.
        """
        if norm not in self.norms:
            return f"is not defined in {norm}"
        if self.square_images and len(set(input_shape[-2:])) > 1:
            return f"as ART has it needs square images; these are {input_shape[-2]} x {input_shape[-1]}"
        return None
