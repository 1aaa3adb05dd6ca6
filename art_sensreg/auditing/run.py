"""The audit itself: check what was given, run every check, let none that raises stop the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from art.estimators.classification import PyTorchClassifier
from tqdm.auto import tqdm

from art_sensreg.attacks.base.norms import norm_name
from art_sensreg.attacks.base.predictions import labels_of
from art_sensreg.attacks.base.sizes import check_size, parse_size
from art_sensreg.attacks.wrappers.torch_model import check_classifier
from art_sensreg.auditing.context import FULL, QUICK, Evidence
from art_sensreg.auditing.isolation import preserve_all
from art_sensreg.auditing.registry import CHECKS, CheckSpec
from art_sensreg.auditing.report import AuditReport, Check
from art_sensreg.utils import as_array, check_count, check_differentiable, check_flag, enable_grad, shown
from art_sensreg.utils.checks import did_you_mean

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
    Say, check by check, whether an evaluation of a classifier by gradient attacks can be believed.

    It does not say that a model is robust. It looks for reasons why attacks fail that have nothing to do with
    robustness: gradients that are missing, wrong or useless, randomness, attacks that do not converge, attacks that are
    weaker than simpler ones. No threshold depends on the model; those finer than the sampling error of the points are
    widened to it.

    | Paper link: https://arxiv.org/abs/1802.00420, https://arxiv.org/abs/1902.06705, https://arxiv.org/abs/2106.09947

    :param classifier: Any ART `PyTorchClassifier`; a random one as `RandomizedClassifier`.
    :param x: Images `(n, *input_shape)` in the user's units, the first 400 of which are used (128 if quick).
    :param y: Class indices `(n,)`, or rows `(n, nb_classes)`.
    :param eps: Size of the perturbation that robustness is claimed for, in the user's units: a number, or a fraction as
        text (`"8/255"`).
    :param norm: `linf` (`np.inf`), `l2` (2) or `l1` (1).
    :param seed: Seed of everything random; global random state, modes and gradients are left as they were.
    :param twin: The same model trained without penalties; without it two checks are skipped.
    :param surrogates: Other trained models to transfer from, an adversarially trained one above all.
    :param penalties: Penalties that the classifier was trained with: their layers are attacked.
    :param train_data: Training images and labels; without surrogates one is trained on them.
    :param checks: Names of the checks to make; None for all.
    :param quick: Fewer points, steps and restarts.
    :param verbose: Whether a progress bar is shown.
    :return: The report; printed, it is a table. A check that raises has the status `ERROR` and its message.
    :raises TypeError: If the classifier, twin or a surrogate is not one of ART's PyTorch classifiers, or eps no number.
    :raises ValueError: If eps, norm, labels, images or the name of a check are not usable, or eps is larger than the
        distance of any two images.

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
    asked, surrogates, penalties = _asked(checks), _several("surrogates", surrogates), _several("penalties", penalties)
    images, labels = _data(classifier, x, y)
    size, kind = parse_size("eps", eps), norm_name(norm)
    _check_eps(classifier, images, size, kind)
    check_count("seed", seed, minimum=0)
    check_flag("quick", quick)
    check_flag("verbose", verbose)
    for name, others in (("twin", [twin] if twin is not None else []), ("surrogates", surrogates)):
        for other in others:
            _check_other(name, other, classifier)
    if train_data is not None:
        _check_train_data(classifier, train_data)
    effort = QUICK if quick else FULL
    others = [other for other in (twin, *surrogates) if other is not None]
    with preserve_all([classifier, *others], int(seed)):
        evidence = Evidence(
            classifier,
            images[: effort.points],
            labels[: effort.points],
            eps=size,
            norm=kind,
            seed=int(seed),
            effort=effort,
            twin=twin,
            surrogates=surrogates,
            penalties=penalties,
            train_data=train_data,
        )
        results = []
        with tqdm(asked, disable=not verbose, unit="check") as bar:
            for spec in bar:
                bar.set_description(spec.name)
                results.append(_made(spec, evidence))
        return AuditReport(checks=tuple(results), settings=_settings(evidence))


def _made(spec: CheckSpec, evidence: Evidence) -> Check:
    others = [other for other in (evidence.twin, *evidence.surrogates) if other is not None]
    start = time.perf_counter()
    about: dict[str, Any] = {"name": spec.name, "source": spec.source, "meaning": spec.meaning}
    try:
        # Each check has random numbers of its own, so that it says the same whichever others are made.
        with preserve_all([evidence.classifier, *others], evidence.seed):
            evidence.model.eval()
            found = spec.made(evidence)
    except Exception as error:
        logger.debug("%s raised", spec.name, exc_info=True)
        note = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(**about, status="ERROR", note=note, seconds=time.perf_counter() - start)
    return Check(
        **about,
        status=found.status,
        value=None if found.value is None else float(found.value),
        threshold=None if found.threshold is None else float(found.threshold),
        note=found.note,
        seconds=time.perf_counter() - start,
    )


def _settings(evidence: Evidence) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "eps": evidence.eps,
        "norm": evidence.norm,
        "points": evidence.n,
        "seed": evidence.seed,
        "steps": evidence.effort.steps,
    }
    try:
        settings["clean accuracy"] = float(evidence.clean.mean())
        settings["accuracy under the attack"] = evidence.robust_accuracy
    except Exception:
        logger.debug("accuracies could not be measured", exc_info=True)
    return settings


def _asked(checks: Sequence[str] | None) -> list[CheckSpec]:
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
    return [CHECKS[name] for name in CHECKS if name in names]


def _several(name: str, given: Any) -> tuple[Any, ...]:
    """What was given as a tuple; one thing alone counts as one."""
    if given is None:
        return ()
    things = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    for thing in things if name == "penalties" else ():
        if not callable(thing):
            raise TypeError(
                f"`penalties` holds {type(thing).__name__}; expected penalties such as SensitivityPenalty()."
            )
    return things


def _data(classifier: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    check_differentiable(check_classifier(classifier).model, "classifier")
    images = as_array(x, "x")
    if images.dtype.kind not in "fiu" or images.ndim < 2 or len(images) == 0:
        raise ValueError(f"`x` has shape {images.shape} and dtype {images.dtype}; expected images (n, *input_shape).")
    if images.shape[1:] != tuple(classifier.input_shape):
        raise ValueError(
            f"`x` has images of shape {images.shape[1:]}; expected {tuple(classifier.input_shape)}, the `input_shape`."
        )
    return images.astype(np.float32), labels_of(classifier, y, len(images))


def _check_eps(classifier: PyTorchClassifier, images: np.ndarray, eps: float, norm: str) -> None:
    """Refuse a size in other units than the images; without `clip_values` their range is that of the images given."""
    clip = classifier.clip_values
    low, high = (images.min(), images.max()) if clip is None else clip
    if np.all(np.asarray(low) < np.asarray(high)):
        check_size("eps", eps, norm, tuple(classifier.input_shape), low, high)


def _check_other(name: str, other: Any, classifier: PyTorchClassifier) -> None:
    if not isinstance(other, PyTorchClassifier):
        raise TypeError(f"`{name}` holds {type(other).__name__}; expected ART's PyTorchClassifier.")
    came = (tuple(other.input_shape), other.nb_classes)
    expected = (tuple(classifier.input_shape), classifier.nb_classes)
    if came != expected:
        raise ValueError(
            f"`{name}` takes images {came[0]} of {came[1]} classes; expected {expected[0]}, {expected[1]}."
        )
    theirs, ours = other.clip_values, classifier.clip_values
    if theirs is not None and ours is not None and not all(map(np.array_equal, theirs, ours)):
        raise ValueError(
            f"`{name}` has `clip_values` {shown(tuple(theirs))}; expected those of the classifier, "
            f"{shown(tuple(ours))}."
        )


def _check_train_data(classifier: PyTorchClassifier, train_data: Any) -> None:
    try:
        images, labels = train_data
    except (TypeError, ValueError):
        raise ValueError("`train_data` is not a pair; expected training images and labels.") from None
    try:
        _data(classifier, images, labels)
    except ValueError as error:
        raise ValueError(f"`train_data`: {error}") from None
