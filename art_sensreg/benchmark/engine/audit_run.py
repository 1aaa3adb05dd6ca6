"""A stand-alone audit: of a file of weights, or of a defence that is trained first."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from art.estimators.classification import PyTorchClassifier

from art_sensreg.attacks.base.sizes import check_size
from art_sensreg.auditing import AuditReport, audit
from art_sensreg.benchmark.config.audit_request import AuditRequest
from art_sensreg.benchmark.config.network_weights import load_network_weights
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.defences.registry import ADVERSARIALLY_TRAINED, DEFENCES, options_of
from art_sensreg.benchmark.engine.audit import Companions, audited_threat, companions_of
from art_sensreg.benchmark.engine.context import SuiteContext, training_spec
from art_sensreg.benchmark.engine.plan import SuitePlan, plan_training
from art_sensreg.benchmark.engine.suite import use_threads_of
from art_sensreg.benchmark.engine.target import Target, make_target
from art_sensreg.benchmark.engine.train import train_run
from art_sensreg.benchmark.results.reading import read_results, stored_results
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.datasets import Dataset
from art_sensreg.utils import check_seed
from art_sensreg.utils.files import usable_folder

# What is trained beside a defence, in the absence of a run that has it: the twin, and the cheapest surrogate.
_BESIDE = ("none", "art-fbf-fixed")
# A folder without a run: the audit of a file resumes none.
_NO_RUN = Path("results") / "no-run"


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """What an audit found, what was audited, and the folder for what is written."""

    report: AuditReport
    title: str
    out: Path


def run_audit(request: AuditRequest) -> AuditResult:
    """
    Audit what was asked for. A defence is trained into the output folder; the report is not written.

    :param request: What was asked for.
    :return: The report, its title and its folder.
    :raises ValueError: If something does not fit.
    :raises OSError: If a file cannot be read or a folder not be written into.
    """
    check_seed("--seed", request.seed)
    if request.defence is not None:
        return _audit_defence(request, request.defence)
    return _audit_file(request, request.checkpoint)


def settings_of_run(folder: Path, name: str, data_dir: str | None = None) -> tuple[SuiteSettings, Dataset]:
    """Settings and data, with all test images, of the run of the suite in a folder; ValueError if there is none."""
    checkpoint = folder / "checkpoints" / f"{name}-seed0.safetensors"
    stored = _settings_beside(checkpoint)
    if stored is None:
        raise ValueError(f"{folder} holds no `results.json` of a run of the suite")
    request = AuditRequest(checkpoint=checkpoint, data_dir=data_dir)
    plan = plan_training(request.suite_request([name], _NO_RUN, stored, test_size=10**9))
    use_threads_of(plan)
    return plan.settings, plan.dataset


def load_target(settings: SuiteSettings, dataset: Dataset, seed: int, file: Path | None, name: str) -> Target:
    """A trained defence from a file of weights (None: as it is built); its name stands for its preprocessing."""
    spec, defence, options = training_spec(settings, dataset, seed), DEFENCES[name], options_of(settings, name)
    model = defence.new_model(spec, options)
    try:
        if file is not None:
            load_network_weights(file, model)
    except ValueError as error:
        raise ValueError(f"{file} does not hold the weights of {settings.model} for {dataset.name}: {error}") from None
    return make_target(spec, spec.classifier(model), defence, options, settings.budget)


def _audit_defence(request: AuditRequest, name: str) -> AuditResult:
    """Train a defence, its twin and a surrogate, then audit it."""
    out, names = request.folder, tuple(dict.fromkeys([*_BESIDE, name]))
    plan = _plan(request, plan_training(request.suite_request(names, out)))
    settings, dataset, previous = plan.settings, plan.dataset, stored_results(out)
    difference = previous and settings.first_difference(previous.config)
    if difference:
        raise ValueError(f"`--out` {out} holds models of other settings ({difference}); choose another folder")
    suite = SuiteContext(settings=settings, dataset=dataset, store=ResultStore(out, settings, previous))
    targets = {each: train_run(suite, each, request.seed) for each in names}
    target = targets[name]
    if target is None:
        run = suite.store.results.run(name, request.seed)
        raise ValueError(f"`--defence` {name} cannot be trained here: {run.reason if run else ''}")
    report = _audit(request, plan, target, companions_of(settings, name, targets), request.seed)
    return AuditResult(report=report, title=f"{name} on {dataset.name}, {settings.model}", out=out)


def _audit_file(request: AuditRequest, file: Path | None) -> AuditResult:
    """
    Audit the weights in a file, with what lies beside them if they belong to a run of the suite; or the user's network
    as it is built.
    """
    if file is not None and not file.is_file():
        raise ValueError(f"`--weights`, `--checkpoint`: there is no file {file}")
    checkpoint = file or Path(str(request.model))
    match = re.fullmatch(r"(.+)-seed(\d+)", checkpoint.stem) if file else None
    name = match.group(1) if match and match.group(1) in DEFENCES else "none"
    seed = int(match.group(2)) if match else request.seed
    stored = _settings_beside(file) if file else None
    if request.own and stored is not None and stored.model != request.model:
        stored = None  # the user's weights lie beside somebody else's run
    out = usable_folder("--out", request.folder)
    files = {
        other: checkpoint.with_name(f"{other}-seed{seed}.safetensors") for other in ("none", *ADVERSARIALLY_TRAINED)
    }
    beside = {other: file for other, file in files.items() if stored and file.is_file() and other != name}
    plan = _plan(request, plan_training(request.suite_request([name, *beside], _NO_RUN, stored)))
    settings, dataset = plan.settings, plan.dataset
    targets: dict[str, Target | None] = {
        other: load_target(settings, dataset, seed, file, other) for other, file in beside.items()
    }
    target = targets[name] = load_target(settings, dataset, seed, file, name)
    companions = companions_of(settings, name, targets)
    if stored is None or match is None:  # nothing is known of how the weights were trained
        companions = replace(companions, penalties=(), twin=None if name == "none" else companions.twin)
    report = _audit(request, plan, target, companions, seed)
    title = f"{checkpoint.name} on {dataset.name}" + (f", {settings.model}" if file else "")
    return AuditResult(report=report, title=title, out=out)


def _settings_beside(checkpoint: Path) -> SuiteSettings | None:
    """The settings of the run of the suite that a checkpoint belongs to, if any; a broken `results.json` is refused."""
    path = checkpoint.resolve().parent.parent / "results.json"
    return read_results(path).config if os.path.lexists(path) else None


def _plan(request: AuditRequest, plan: SuitePlan) -> SuitePlan:
    """The plan, once what the suite does not check fits: before anything is trained."""
    if request.eps:
        norm = request.norm or plan.settings.threats[0].norm
        check_size("--eps", request.eps, norm, plan.dataset.input_shape)
    use_threads_of(plan)
    return plan


def _audit(request: AuditRequest, plan: SuitePlan, target: Target, companions: Companions, seed: int) -> AuditReport:
    settings, dataset = plan.settings, plan.dataset.limited(test_size=request.points)

    def model_of(file: Path) -> PyTorchClassifier:
        return load_target(settings, plan.dataset, seed, file, "none").model

    # What was asked for by name comes before what lies beside the model.
    twin = model_of(request.twin) if request.twin else companions.twin
    surrogates = tuple(map(model_of, request.surrogates)) or companions.surrogates
    norm, eps = audited_threat(settings)
    return audit(
        target.default,
        dataset.x_test,
        dataset.y_test,
        eps=request.eps or eps,
        norm=request.norm or norm,
        seed=request.seed,
        twin=twin,
        surrogates=surrogates,
        penalties=companions.penalties,
        train_data=(dataset.x_train, dataset.y_train),
        checks=request.checks,
        quick=request.quick,
        verbose=request.verbose,
    )
