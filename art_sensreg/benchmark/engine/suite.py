"""Run the suite: train each defence, attack each trained model, store every outcome."""

from __future__ import annotations

import logging
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import SALIENCY, SuiteSettings
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.attack import attack_cell
from art_sensreg.benchmark.engine.attack_job import Job
from art_sensreg.benchmark.engine.audit import audit_cell
from art_sensreg.benchmark.engine.extra_evaluations import draw_saliency, judge_claims, measure_beside
from art_sensreg.benchmark.engine.plan import SuitePlan, plan_suite
from art_sensreg.benchmark.engine.target import Cell
from art_sensreg.benchmark.engine.train import STOPS, clean_outcome, quiet, task_of, trained_cell
from art_sensreg.benchmark.engine.workers import attack_side_by_side
from art_sensreg.benchmark.results.reading import check_run_folder, read_results
from art_sensreg.benchmark.results.report import write_report
from art_sensreg.benchmark.results.store import Records
from art_sensreg.classifiers import SensRegClassifier
from art_sensreg.datasets import Dataset
from art_sensreg.training.checkpoint.lock import FolderLock
from art_sensreg.training.distributed import Processes, join_processes, leave_processes, local_device
from art_sensreg.utils.text import describe

logger = logging.getLogger(__name__)

# Defences whose models stand in for others of their seed: the undefended one, and adversarially trained ones.
SURROGATES = ("none", "art-madry", "art-trades-fixed")
# Images in the picture of the saliency maps.
_DRAWN = 6
# A preprocessor that is attacked on fewer images is too slow to be audited.
_AUDITABLE = 50


@dataclass(frozen=True)
class Suite:
    """
    A run that is ready: planned, its folder locked, its processes joined. Made by :func:`open_suite`.

    :param plan: What it does.
    :param records: Where results go; those of an earlier run are kept.
    :param processes: Those that share the work: ours train on all of them, ART's on the first, all attack their part.
    """

    plan: SuitePlan
    records: Records
    processes: Processes

    def run(self, command: str = "") -> list[Path]:
        """
        Run what is not stored yet, and write the report.

        Of each seed all defences are trained before any is attacked, so that every attack that needs other models
        finds them, whatever the order of the defences is.

        :param command: The command that is shown in the report.
        :return: The files of the report; none on processes other than the first.
        """
        settings, records = self.plan.settings, self.records
        records.data["left_out"] = list(self.plan.left_out)
        # ART warns of what the suite does on purpose (Carlini's clipped images, and the like).
        logging.getLogger("art").setLevel(logging.ERROR)
        if self.processes.rank == 0 and not self.plan.resume:
            shutil.rmtree(records.out / "checkpoints" / "training", ignore_errors=True)
        silent = not self.plan.verbose or self.processes.rank > 0
        steps = settings.seeds * len(settings.defences) * (1 + len(settings.attacks))
        with tqdm(total=steps, disable=silent, unit="step") as bar:
            for seed in range(settings.seeds):
                self._run_seed(seed, bar)
        if self.processes.rank > 0:
            return []
        records.save()
        return write_report(records.data, records.out, command)

    @property
    def complete(self) -> bool:
        """Whether every run of ours that was asked for has succeeded."""
        settings = self.plan.settings
        wanted = {(name, seed) for seed in range(settings.seeds) for name in settings.defences}
        asked = [run for run in self.records.runs if (run["defence"], run["seed"]) in wanted]
        return not any(run["status"] == "error" for run in asked)

    def _run_seed(self, seed: int, bar: Any) -> None:
        settings, dataset, records, processes = self.plan.settings, self.plan.dataset, self.records, self.processes
        trained = {}
        for name in settings.defences:
            bar.set_description(f"{name} seed {seed}: training")
            trained[name] = trained_cell(settings, dataset, records, name, seed, processes)
            bar.update()
        jobs = []
        for run, cell in trained.values():
            if cell is None:
                records.put(run)
                bar.update(len(settings.attacks))
                continue
            try:
                jobs.append(_job(settings, dataset, records, run, cell, processes, trained))
            except STOPS:
                raise
            except BaseException as error:  # noqa: BLE001 - one failing cell must not take the others with it
                _fail(run, "clean images", error)
                records.put(run)
        attack = partial(_attacked, cells=trained, audits=self.plan.audit, interpret=self.plan.interpret)
        _attack_all(jobs, attack, 1 if processes.count > 1 else self.plan.workers, records, bar)
        if processes.rank == 0:
            judge_claims(records, dataset)
            records.save()
            if self.plan.interpret and seed == 0:
                _draw(records, dataset, {name: found[1] for name, found in trained.items()})


def run_suite(request: SuiteRequest, command: str = "") -> dict[str, Any]:
    """
    Train defences, attack the trained models, write results and report.

    :param request: What is asked for.
    :param command: The command that is shown in the report.
    :return: Content of `results.json`.
    :raises ValueError: If something of the request does not fit, or the output folder cannot be used.
    :raises OSError: If nothing can be written into the folder.
    """
    with open_suite(request) as suite:
        suite.run(command)
    return suite.records.data


@contextmanager
def open_suite(request: SuiteRequest) -> Iterator[Suite]:
    """
    Get a run ready: plan it, join the processes of this job, lock the output folder until it is left.

    :param request: What is asked for.
    :return: The run.
    :raises ValueError: If something of the request does not fit, or the output folder cannot be used.
    :raises OSError: If nothing can be written into the folder.
    """
    plan = plan_suite(request)
    previous = resumed_results(plan)
    settings = plan.settings
    use_threads_of(plan)
    device = local_device(torch.device(settings.device))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # ART takes the current one
    processes = join_processes(device)
    out, previous = processes.agree((plan.out, previous))
    records = Records(out, settings.as_json(), settings.device, previous, writes=processes.rank == 0)
    lock = _lock(out, previous) if processes.rank == 0 else None
    try:
        yield Suite(plan, records, processes)
    finally:
        if lock is not None:
            lock.release()
    if processes.count > 1:
        processes.gather(None)  # the first process has written its report: all leave together
        leave_processes()


def _lock(out: Path, previous: dict[str, Any] | None) -> FolderLock:
    """Keep other runs out of the folder of this one."""
    lock = FolderLock(out)
    if not lock.acquire():
        raise ValueError(
            f"`--out` {out} is in use by another run{lock.holder()}; choose another folder, or wait for it"
        )
    if load_previous(out) != previous:
        lock.release()
        raise ValueError(f"`--out` {out} was written to by another run just now; start again")
    return lock


def use_threads_of(plan: SuitePlan) -> None:
    """
    Set the threads of torch that the data set calls for, unless `OMP_NUM_THREADS` is set.

    :param plan: The plan of a run.
    """
    if plan.recipe.threads and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(plan.recipe.threads)


def _draw(records: Records, dataset: Dataset, cells: dict[str, Cell | None]) -> None:
    try:
        draw_saliency(cells, dataset.x_test[:_DRAWN], dataset.y_test[:_DRAWN], records.out / SALIENCY)
    except STOPS:
        raise
    except BaseException as error:  # noqa: BLE001 - a picture is no reason to lose a run
        records.data.setdefault("left_out", []).append(f"the picture of saliency maps: {describe(error)}")


def _measure(job: Job, interpret: bool) -> None:
    run = job.run
    run.pop("measure_error", None)
    try:
        measure_beside(job, interpret)
    except STOPS:
        raise
    except BaseException as error:  # noqa: BLE001 - one failing cell must not take the others with it
        logger.debug("%s", traceback.format_exc())
        run["measure_error"] = describe(error)
        if DEFENCES[run["defence"]].answered_for:
            run.update(status="error", reason=run["measure_error"])
        return
    filled = all(row["status"] != "error" for row in run["attacks"])
    if run["status"] == "error" and filled:
        run.update(status="ok", reason="")  # a resumed run has filled what was missing


def _audit(job: Job, cells: dict[str, Cell | None]) -> None:
    run, settings, cell = job.run, job.settings, job.cell
    if cell.attackable(_AUDITABLE) < _AUDITABLE:
        run["audit"] = {"verdict": "not audited: its preprocessing is too slow", "checks": []}
        return
    limited = job.dataset.limited(test_size=cell.points)
    try:
        with quiet():  # surrogates that it trains have progress bars
            report = audit_cell(settings, limited, run["defence"], cells, settings.budget == "smoke", seed=run["seed"])
        run["audit"] = report.to_dict()
    except STOPS:
        raise
    except BaseException as error:  # noqa: BLE001 - one failing cell must not take the others with it
        _fail(run, "audit", error)


def _attack_all(jobs: list[Job], attack: Any, workers: int, records: Records, bar: Any) -> None:
    def progress(run: dict[str, Any], name: str) -> None:
        bar.set_description(f"{run['defence']} seed {run['seed']}: {name}")
        bar.update(name in ATTACKS)

    if workers > 1 and len(jobs) > 1:
        attack_side_by_side(jobs, attack, workers, records.put, progress)
        return
    for job in jobs:
        attack(job, partial(progress, job.run))


def _attacked(job: Job, progress: Callable[[str], None], cells: dict[str, Any], audits: bool, interpret: bool) -> None:
    """Attack a cell, measure what else is asked for, and store it all."""
    run, settings = job.run, job.settings
    try:
        attack_cell(job, progress)
        if job.processes.rank == 0:
            progress("other measures")
            _measure(job, interpret)
            job.records.summarise(run, settings.threats)
            if audits and "audit" not in run:
                progress("audit")
                _audit(job, {name: found[1] for name, found in cells.items()})
    except STOPS:
        raise
    except BaseException as error:  # noqa: BLE001 - one failing cell must not take the others with it
        _fail(run, "attacks", error)
    job.records.put(run)


def _fail(run: dict[str, Any], doing: str, error: BaseException) -> None:
    """Put a failure into the record of a cell, behind those that stand there."""
    logger.debug("%s", traceback.format_exc())
    reason = f"{doing}: {describe(error)}"
    run.update(status="error", reason="; ".join(filter(None, [run["reason"], reason])))


def _job(
    settings: SuiteSettings,
    dataset: Dataset,
    records: Records,
    run: dict[str, Any],
    cell: Cell,
    processes: Processes,
    trained: dict[str, tuple[dict[str, Any], Cell | None]],
) -> Job:
    clean = np.zeros(len(dataset.x_test), dtype=bool)
    right = processes.agree(clean_outcome(cell, task_of(settings, dataset, run["seed"])))
    clean[: len(right)] = right
    clean[cell.attackable(len(clean)) :] = False
    return Job(
        settings=settings,
        dataset=dataset,
        records=records,
        run=run,
        cell=cell,
        surrogates=_surrogates(run["defence"], trained),
        processes=processes,
        clean=clean,
    )


def _surrogates(defence: str, trained: dict[str, tuple[dict[str, Any], Cell | None]]) -> dict[str, SensRegClassifier]:
    cells = {name: trained[name][1] for name in SURROGATES if name in trained and name != defence}
    return {name: cell.model for name, cell in cells.items() if cell is not None}


def load_previous(out: Path) -> dict[str, Any] | None:
    """
    Read the results of an earlier run.

    :param out: Its folder.
    :return: `results.json`, or None if there is none.
    :raises ValueError: If it cannot be read, or is not what this program writes.
    """
    check_run_folder(out)
    path = out / "results.json"
    if not path.exists():
        return None
    try:
        return read_results(path)
    except ValueError as error:
        raise ValueError(f"`--out`: {error}; choose another folder") from error


def resumed_results(plan: SuitePlan) -> dict[str, Any] | None:
    """
    Read what the output folder of a run has of it.

    :param plan: The plan.
    :return: `results.json`, or None if there is none.
    :raises ValueError: If it is there and not to be resumed, has other settings, or cannot be read.
    """
    previous = load_previous(plan.out)
    if previous is None:
        return None
    if not plan.resume:
        raise ValueError(
            f"`--out` {plan.out} holds the results of an earlier run; add --resume, or choose another folder"
        )
    difference = plan.settings.first_difference(previous["config"])
    if difference:
        raise ValueError(f"`--resume`: the run in {plan.out} had other settings: {difference}")
    return previous
