"""The audit of a trained defence of the suite, using the other models of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from art.estimators.classification import PyTorchClassifier

from art_sensreg.auditing import AuditReport, audit
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.defences.registry import ADVERSARIALLY_TRAINED, DEFENCES, options_of
from art_sensreg.benchmark.engine.target import Target
from art_sensreg.datasets import Dataset
from art_sensreg.penalty_lists import Penalty


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What a model is judged by, beside itself: its undefended twin, other models, and its penalties."""

    twin: PyTorchClassifier | None = None
    surrogates: tuple[PyTorchClassifier, ...] = ()
    penalties: tuple[Penalty, ...] = ()


def companions_of(settings: SuiteSettings, name: str, targets: Mapping[str, Target | None]) -> Companions:
    """What a run, with its trained defences of one seed, has to judge one of them by; `none` is its own twin."""
    models = {other: target.model for other, target in targets.items() if target is not None}
    surrogates = [models[other] for other in ADVERSARIALLY_TRAINED if other in models and other != name]
    penalties = tuple(penalties_of(settings, name))
    return Companions(twin=models.get("none"), surrogates=tuple(surrogates[:2]), penalties=penalties)


def audited_threat(settings: SuiteSettings) -> tuple[str, float]:
    """The norm and the size at which the suite audits: the middle size of the first norm."""
    threat = settings.threats[0]
    return threat.norm, threat.eps[len(threat.eps) // 2]


def penalties_of(settings: SuiteSettings, name: str) -> list[Penalty]:
    """The penalties that a defence is trained with, if any."""
    make = DEFENCES[name].penalties
    return [] if make is None else make(options_of(settings, name))


def audit_target(
    settings: SuiteSettings, dataset: Dataset, name: str, targets: Mapping[str, Target | None], seed: int
) -> AuditReport:
    """
    Audit one of the trained defences of a seed on the first test images, as ART attacks it by default. ValueError if it
    has not been trained.
    """
    target, companions = targets.get(name), companions_of(settings, name, targets)
    if target is None:
        raise ValueError(f"`name` is {name!r}, which has not been trained; expected one of {', '.join(targets)}.")
    norm, eps = audited_threat(settings)
    return audit(
        target.default,
        dataset.x_test,
        dataset.y_test,
        eps=eps,
        norm=norm,
        seed=seed,
        twin=companions.twin,
        surrogates=companions.surrogates,
        penalties=companions.penalties,
        train_data=(dataset.x_train, dataset.y_train),
        quick=settings.budget == "smoke",
    )
