"""The audit of a trained defence of the suite, with everything that the run has to judge it by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from art_sensreg.auditing import AuditReport, audit
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.defences.registry import DEFENCES, options_of
from art_sensreg.benchmark.engine.target import Target
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.penalty_lists import Penalty

# Adversarially trained defences whose models an audit transfers from, the first ones of which are taken.
ADVERSARIAL = ("art-madry", "art-trades-fixed", "art-fbf-fixed", "art-fbf", "art-adversarial", "art-awp-fixed")


def audited_threat(settings: SuiteSettings) -> tuple[str, float]:
    """
    The norm and the size that the suite audits at: of the first norm's sizes the middle one.

    :param settings: Settings of the run.
    :return: Norm and eps.

    Example:
    >>> from types import SimpleNamespace
    >>> from art_sensreg.benchmark.engine.audit import audited_threat
    >>> from art_sensreg.benchmark.config.threat_models import Threat
    >>> audited_threat(SimpleNamespace(threats=(Threat("linf", (0.1, 0.2, 0.3)),)))
    ('linf', 0.2)
    """
    threat = settings.threats[0]
    return threat.norm, threat.eps[len(threat.eps) // 2]


def penalties_of(settings: SuiteSettings, name: str) -> list[Penalty]:
    """
    The penalties that a defence was trained with.

    :param settings: Settings of the run.
    :param name: Name of the defence.
    :return: The penalties; none for defences that have none.
    """
    make = DEFENCES[name].penalties
    if make is None:
        return []
    return make(options_of(settings, name))


def audit_cell(
    settings: SuiteSettings,
    dataset: Dataset,
    name: str,
    cells: Mapping[str, Target | None],
    quick: bool = False,
    **given: Any,
) -> AuditReport:
    """
    Audit one defence, as ART attacks it by default.

    :param settings: Settings of the run.
    :param dataset: The data; the first test images are used.
    :param name: Name of the defence.
    :param cells: The trained cells of one seed by defence: the twin and surrogates are taken from them.
    :param quick: Fewer points, steps and restarts.
    :param given: Further arguments of `audit`, in the place of those of the run.
    :return: The report.
    :raises ValueError: If the defence has not been trained.
    """
    cell = cells.get(name)
    if cell is None:
        raise ValueError(f"`name` is {name!r}, which has not been trained; expected one of {', '.join(cells)}.")
    norm, eps = audited_threat(settings)
    models = {other: value.model for other, value in cells.items() if value is not None and other != name}
    surrogates: list[SensRegClassifier] = [models[other] for other in ADVERSARIAL if other in models][:2]
    twin = models.get("none", cell.model if name == "none" else None)
    arguments: dict[str, Any] = {
        "eps": eps,
        "norm": norm,
        "twin": twin,
        "surrogates": surrogates,
        "penalties": penalties_of(settings, name),
        "train_data": (dataset.x_train, dataset.y_train),
        "quick": quick,
        **given,
    }
    return audit(cell.default, dataset.x_test, dataset.y_test, **arguments)
