"""Run the suite: train each defence, attack each trained model, store every outcome."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import SALIENCY
from art_sensreg.benchmark.defences.registry import ADVERSARIALLY_TRAINED
from art_sensreg.benchmark.engine.attack_run import attack_run
from art_sensreg.benchmark.engine.audit import audit_target
from art_sensreg.benchmark.engine.claims import judge_claims
from art_sensreg.benchmark.engine.context import SuiteContext, TrainedRun
from art_sensreg.benchmark.engine.evaluations import draw_saliency, evaluate_run
from art_sensreg.benchmark.engine.plan import SuitePlan, plan_suite
from art_sensreg.benchmark.engine.progress import AUDIT, EVALUATIONS, FINISHED, TRAINING, Progress, cells_of
from art_sensreg.benchmark.engine.runtime import attempt, quiet
from art_sensreg.benchmark.engine.target import Target
from art_sensreg.benchmark.engine.train import clean_outcome, train_run
from art_sensreg.benchmark.engine.workers import attack_side_by_side
from art_sensreg.benchmark.results.entries import AuditRecord
from art_sensreg.benchmark.results.masks import summarised
from art_sensreg.benchmark.results.reading import audit_record, stored_results
from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.report import write_report
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.training.checkpoint.lock import FolderLock
from art_sensreg.training.distributed import join_processes, leave_processes, local_device
from art_sensreg.utils.text import error_text

logger = logging.getLogger(__name__)

# Defences whose models stand in for others of their seed: the undefended one, and adversarially trained ones.
SURROGATES = ("none", *ADVERSARIALLY_TRAINED[:2])
# Images in the picture of the saliency maps.
_DRAWN = 6
# A preprocessor that is attacked on fewer images is too slow to be audited.
_AUDITABLE = 50
Targets = Mapping[str, Target | None]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """
    A run that is ready: planned, its folder locked, its processes joined. Made by :func:`open_suite`.

    :param plan: What it does.
    :param context: What all its stages share: ours train on all processes, ART's on the first, all attack their part.
    """

    plan: SuitePlan
    context: SuiteContext

    def run(self, command: str = "") -> list[Path]:
        """
        Run what is not stored yet, and write the report.

        Of each seed all defences are trained before any is attacked, so that every attack that needs other models
        finds them, whatever the order of the defences is.
        """
        settings, store, processes = self.plan.settings, self.context.store, self.context.processes
        store.leave_out(*self.plan.left_out)
        store.note_command(command)
        # ART warns of what the suite does on purpose (Carlini's clipped images, and the like).
        logging.getLogger("art").setLevel(logging.ERROR)
        if processes.rank == 0 and not self.plan.resume:
            shutil.rmtree(store.out / "checkpoints" / "training", ignore_errors=True)
        silent = not self.plan.verbose or processes.rank > 0
        cells = cells_of(settings, len(self.plan.dataset.x_train), self.plan.audit, store.results)
        with Progress(cells, self.plan.workers if processes.count == 1 else 1, silent) as progress:
            for seed in range(settings.seeds):
                self._run_seed(seed, progress)
        if processes.rank > 0:
            return []
        store.save()
        return write_report([store.out], store.out)

    @property
    def complete(self) -> bool:
        """Whether every run that was asked for has succeeded, or cannot run here."""
        settings = self.plan.settings
        wanted = {(name, seed) for seed in range(settings.seeds) for name in settings.defences}
        return not any(run.status == "error" for run in self.context.store.results.runs if run.key in wanted)

    def _run_seed(self, seed: int, progress: Progress) -> None:
        settings, context, store = self.plan.settings, self.context, self.context.store
        targets: dict[str, Target | None] = {}
        for name in settings.defences:
            progress.begin((name, seed), TRAINING)
            targets[name] = train_run(context, name, seed)
            progress.end((name, seed))
        runs = []
        for name, target in targets.items():
            run, error = (None, None) if target is None else attempt(partial(_ready, context, name, seed, targets))
            if run is not None:
                runs.append(run)
                continue
            if error is not None:
                store.put(context.record(name, seed).failed("clean images", error))
            progress.drop((name, seed))
        self._attack(runs, targets, progress)
        if context.processes.rank == 0:
            judge_claims(store, context.dataset)
            if self.plan.interpret and seed == 0:
                self._draw(targets)

    def _attack(self, runs: Sequence[TrainedRun], targets: Targets, progress: Progress) -> None:
        def tell(run: TrainedRun, stage: str) -> None:
            if stage == FINISHED:
                progress.drop((run.name, run.seed))
            else:
                progress.begin((run.name, run.seed), stage)

        attack = partial(attack_and_evaluate, plan=self.plan, targets=targets)
        if self.plan.workers > 1 and self.context.processes.count == 1 and len(runs) > 1:
            attack_side_by_side(runs, attack, self.plan.workers, tell)
            return
        for run in runs:
            attack(run, partial(tell, run))

    def _draw(self, targets: Targets) -> None:
        dataset, store = self.context.dataset, self.context.store
        images = dataset.x_test[:_DRAWN], dataset.y_test[:_DRAWN]
        _, error = attempt(partial(draw_saliency, targets, *images, store.out / SALIENCY))
        if error is not None:  # a picture is no reason to lose a run
            store.leave_out(f"the picture of saliency maps: {error_text(error)}")


def run_suite(request: SuiteRequest, command: str = "") -> Results:
    """
    Train defences, attack the trained models, write results and report.

    :param request: What is asked for.
    :param command: The command that is shown in the report.
    :return: The results, as they are stored in `results.json`.
    :raises ValueError: If something of the request does not fit, or the output folder cannot be used.
    :raises OSError: If nothing can be written into the folder.
    """
    with open_suite(request) as suite:
        suite.run(command)
    return suite.context.store.results


@contextmanager
def open_suite(request: SuiteRequest) -> Iterator[Suite]:
    """
    Prepare a run: plan it, join the processes of this job, lock the output folder until it is left.

    :raises ValueError: If something of the request does not fit, or the output folder cannot be used.
    :raises OSError: If nothing can be written into the folder.
    """
    plan = plan_suite(request)
    previous = resumed_results(plan)
    use_threads_of(plan)
    device = local_device(torch.device(plan.settings.device))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # ART takes the current one
    processes = join_processes(device)
    out, previous = processes.agree((plan.out, previous))
    store = ResultStore(out, plan.settings, previous, writes=processes.rank == 0)
    lock = _lock(out, previous) if processes.rank == 0 else None
    try:
        context = SuiteContext(settings=plan.settings, dataset=plan.dataset, store=store, processes=processes)
        yield Suite(plan=plan, context=context)
    finally:
        if lock is not None:
            lock.release()
    if processes.count > 1:
        processes.gather(None)  # the first process has written its report: all leave together
        leave_processes()


def _lock(out: Path, previous: Results | None) -> FolderLock:
    """Keep other runs out of the folder of this one."""
    lock = FolderLock(out)
    if not lock.acquire():
        raise ValueError(
            f"`--out` {out} is in use by another run{lock.holder()}; choose another folder, or wait for it"
        )
    if stored_results(out) != previous:
        lock.release()
        raise ValueError(f"`--out` {out} was written to by another run just now; start again")
    return lock


def use_threads_of(plan: SuitePlan) -> None:
    """Set the threads of torch that the data set calls for, unless `OMP_NUM_THREADS` is set."""
    if plan.recipe.threads and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(plan.recipe.threads)


def resumed_results(plan: SuitePlan) -> Results | None:
    """
    Read what the output folder of a run has of it. ValueError if results are there and not to be resumed, have other
    settings, or cannot be read.
    """
    previous = stored_results(plan.out)
    if previous is None:
        return None
    if not plan.resume:
        raise ValueError(
            f"`--out` {plan.out} holds the results of an earlier run; add --resume, or choose another folder"
        )
    difference = plan.settings.first_difference(previous.config)
    if difference:
        raise ValueError(f"`--resume`: the run in {plan.out} had other settings: {difference}")
    if previous.config.penalties is None:
        logger.warning(
            "`--resume`: the run in %s was begun by a version that did not store the settings of the penalties; where "
            "this version has others, seeds of one row would differ in them.", plan.out,
        )  # fmt: skip
    return previous


def attack_and_evaluate(run: TrainedRun, progress: Callable[[str], None], plan: SuitePlan, targets: Targets) -> None:
    """Attack a trained defence, measure what else is asked for, and store it all; a failure is stored too."""

    def stages() -> None:
        attack_run(run, progress)
        if run.suite.processes.rank > 0:
            return
        progress(EVALUATIONS)
        _evaluate(run, plan.interpret)
        run.suite.store.put(summarised(run.suite.store.out, run.record, plan.settings.threats))
        if plan.audit and run.record.audit is None:
            progress(AUDIT)
            _audit(run, targets)

    _, error = attempt(stages)
    record = run.record
    run.suite.store.put(record if error is None else record.failed("attacks", error))
    progress(FINISHED)


def _ready(context: SuiteContext, name: str, seed: int, targets: Targets) -> TrainedRun:
    target = targets[name]
    assert target is not None
    clean = np.zeros(len(context.dataset.x_test), dtype=bool)
    correct = context.processes.agree(clean_outcome(target, context.training_spec(seed)))
    clean[: len(correct)] = correct
    clean[target.attackable(len(clean)) :] = False
    others = {other: targets.get(other) for other in SURROGATES if other != name}
    surrogates = {other: found.model for other, found in others.items() if found is not None}
    return TrainedRun(suite=context, name=name, seed=seed, target=target, surrogates=surrogates, clean=clean)


def _evaluate(run: TrainedRun, interpret: bool) -> None:
    _, error = attempt(partial(evaluate_run, run, interpret))
    record = replace(run.record, measure_error=None if error is None else error_text(error))
    if error is not None and run.defence.answered_for:
        record = replace(record, status="error", reason=error_text(error))
    filled = all(attack.status != "error" for attack in record.attacks)
    if error is None and record.status == "error" and filled:
        record = replace(record, status="ok", reason="")  # a resumed run has filled what was missing
    run.suite.store.put(record)


def _audit(run: TrainedRun, targets: Targets) -> None:
    settings, target, store = run.suite.settings, run.target, run.suite.store
    if target.attackable(_AUDITABLE) < _AUDITABLE:
        verdict = "not audited: its preprocessing is too slow"
        store.put(replace(run.record, audit=AuditRecord(verdict=verdict, checks=())))
        return
    limited = run.suite.dataset.limited(test_size=target.points)

    def audited() -> AuditRecord:
        with quiet():  # surrogates that it trains have progress bars
            report = audit_target(settings, limited, run.name, targets, run.seed)
        return audit_record(report)

    audit, error = attempt(audited)
    store.put(run.record.failed("audit", error) if error is not None else replace(run.record, audit=audit))
