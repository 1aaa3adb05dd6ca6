"""The audit itself: every check is run, and one that raises does not stop the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from tqdm.auto import tqdm

from art_sensreg.auditing.checks import CHECKS, CheckSpec
from art_sensreg.auditing.context import FULL, QUICK, AuditContext, AuditInputs, validated
from art_sensreg.auditing.isolation import preserve_all
from art_sensreg.auditing.report import AuditReport, Check
from art_sensreg.utils import check_flag, enable_grad, shown
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.text import error_text

logger = logging.getLogger(__name__)


@enable_grad()
def audit(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: np.ndarray,
    *,
    eps: float | str,
    norm: Any = "linf",
    seed: int = 0,
    twin: PyTorchClassifier | None = None,
    surrogates: Sequence[PyTorchClassifier] = (),
    penalties: Sequence[Any] = (),
    train_data: tuple[np.ndarray, np.ndarray] | None = None,
    checks: Sequence[str] | None = None,
    quick: bool = False,
    verbose: bool = False,
) -> AuditReport:
    """
    Report, check by check, whether an evaluation of a classifier by gradient attacks can be trusted.

    It does not say that a model is robust. It looks for reasons why attacks might fail that have nothing to do with
    robustness: gradients that are missing, wrong or uninformative, randomness, attacks that do not converge or are
    weaker than simpler ones. No threshold depends on the model; those below the sampling error of the points are raised
    to it.

    | Paper link: https://arxiv.org/abs/1802.00420, https://arxiv.org/abs/1902.06705, https://arxiv.org/abs/2106.09947

    :param classifier: Any ART `PyTorchClassifier`; a random one as `RandomizedClassifier`.
    :param x: Images `(n, *input_shape)` in the user's units, of which the first 400 are used (128 if quick).
    :param y: Class indices `(n,)`, or one-hot labels `(n, nb_classes)`.
    :param eps: Perturbation size for which robustness is claimed, in the user's units: a number, or a fraction as text
        (`"8/255"`).
    :param norm: `linf` (`np.inf`), `l2` (2) or `l1` (1).
    :param seed: Seed of all randomness; global random states, modes and gradients are left as they were.
    :param twin: The same model trained without penalties; without it two checks are skipped.
    :param surrogates: Other trained models to transfer from, above all an adversarially trained one.
    :param penalties: The penalties that the classifier was trained with, whose layers are attacked.
    :param train_data: Training images and labels, on which a surrogate is trained if none is given.
    :param checks: Names of the checks to run; None for all.
    :param quick: Fewer points, steps and restarts.
    :param verbose: Whether a progress bar is shown.
    :return: The report; printed, it is a table. A check that raises has the status `ERROR` and its message.
    :raises TypeError: If the classifier, twin or a surrogate is not one of ART's PyTorch classifiers, or eps is not a
        number.
    :raises ValueError: If eps, norm, labels, images or the name of a check cannot be used, or eps is larger than the
        distance between any two images.

    Example:
    >>> from torch import nn
    >>> from art_sensreg import SensRegClassifier, audit
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> classifier = SensRegClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), 2, clip_values=(0.0, 1.0))
    >>> x = np.random.default_rng(0).random((20, 1, 2, 2), dtype=np.float32)
    >>> y = classifier.predict(x).argmax(axis=1)
    >>> audit(classifier, x, y, eps=0.1, checks=["eval_mode", "deterministic"]).verdict
    'no failure detected'
    """
    specs = _selected(checks)
    check_flag("quick", quick)
    check_flag("verbose", verbose)
    given = AuditInputs(
        classifier=classifier,
        x=x,
        y=y,
        eps=eps,  # type: ignore[arg-type]  # text too, until it is validated
        norm=norm,
        seed=seed,
        effort=QUICK if quick else FULL,
        twin=twin,
        surrogates=surrogates,
        penalties=penalties,
        train_data=train_data,
    )
    inputs = validated(given)
    with preserve_all(inputs.classifiers, inputs.seed):
        context, results = AuditContext(inputs), []
        with tqdm(specs, disable=not verbose, unit="check") as bar:
            for spec in bar:
                bar.set_description(spec.name)
                results.append(_run_check(spec, context))
        return AuditReport(checks=tuple(results), settings=_settings(context))


def _selected(checks: Sequence[str] | None) -> list[CheckSpec]:
    if checks is None:
        return list(CHECKS.values())
    if not isinstance(checks, Iterable):
        raise TypeError(f"`checks` is {shown(checks)}; expected a list of names of checks, or None.")
    names = [checks] if isinstance(checks, str) else list(checks)
    unknown = [name for name in names if not isinstance(name, str) or name not in CHECKS]
    if unknown or not names:
        came = shown(unknown[0]) if unknown else "empty"
        hint = did_you_mean(unknown[0], CHECKS) if unknown else ""
        some = ", ".join(list(CHECKS)[:3])
        raise ValueError(f"`checks` is {came}; expected names of {some} ... (art_sensreg.auditing.CHECKS){hint}")
    return [spec for name, spec in CHECKS.items() if name in names]


def _run_check(spec: CheckSpec, context: AuditContext) -> Check:
    start = time.perf_counter()
    result: dict[str, Any]
    try:
        # Each check has its own random numbers, so that its result does not depend on which others are run.
        with preserve_all(context.inputs.classifiers, context.inputs.seed):
            context.model.module.eval()
            found = spec.run(context)
        value, threshold = (None if number is None else float(number) for number in (found.value, found.threshold))
        result = {"status": found.status, "value": value, "threshold": threshold, "note": found.note}
    except Exception as error:
        logger.debug("%s raised", spec.name, exc_info=True)
        result = {"status": "ERROR", "note": error_text(error)}
    seconds = time.perf_counter() - start
    described = {name: getattr(spec, name) for name in ("name", "source", "meaning", "measures")}
    return Check(**described, seconds=seconds, **result)


def _settings(context: AuditContext) -> dict[str, Any]:
    inputs = context.inputs
    settings: dict[str, Any] = {name: getattr(inputs, name) for name in ("eps", "norm")}
    settings |= {"points": inputs.n, "seed": inputs.seed, "steps": inputs.effort.steps}
    try:
        settings["clean accuracy"] = float(context.model.correct.mean())
        settings["accuracy under the attack"] = context.attacks.robust_accuracy
        settings["slack"] = context.tolerance(0.0)
    except Exception:
        logger.debug("accuracies could not be measured", exc_info=True)
    return settings
