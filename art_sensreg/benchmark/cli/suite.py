"""Command line of the suite: see `python benchmarks/run_art_suite.py --help`."""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from art_sensreg.attacks.base.sizes import check_size
from art_sensreg.benchmark.attacks import ATTACKS, default_attacks, ordered
from art_sensreg.benchmark.cli.arguments import OneLineParser, make_parser, size_groups
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.config.settings import FILE_RECIPE, RECIPES, SuiteSettings
from art_sensreg.benchmark.config.threat_models import NORMS, pair_threats
from art_sensreg.benchmark.defences.from_art.defences import NO_ROWS
from art_sensreg.benchmark.defences.registry import DEFENCES, SMOKE_DEFENCES, resolve_options
from art_sensreg.benchmark.engine.suite import load_previous, run_suite
from art_sensreg.benchmark.results.extra_tables import extra_tables
from art_sensreg.benchmark.results.store import Records
from art_sensreg.benchmark.results.tables import explanations, summary_table
from art_sensreg.datasets import Dataset, load_dataset
from art_sensreg.models import build_model
from art_sensreg.training.checkpoint.lock import FolderLock
from art_sensreg.training.distributed import Processes, join_processes, leave_processes, local_device
from art_sensreg.utils.text import describe


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the suite.

    :param arguments: Command line; that of the process if None.
    :return: Exit code: 0 done, 1 a cell failed (what was done is kept). Wrong arguments exit with 2, Ctrl-C with 130.
    """
    _load_plugin(arguments)
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.list:
        say(list_names())
        return 0
    needed = ("jinja2", "matplotlib", "pyautoattack", *(["captum"] if given.interpret else []))
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        parser.error(f"the suite needs {', '.join(missing)}: install art_sensreg[bench]")
    try:
        settings, dataset, out, previous = prepare(given)
        threads = RECIPES.get(settings.dataset, FILE_RECIPE).threads
        if threads and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        device = local_device(torch.device(settings.device))
        if device.type == "cuda":
            torch.cuda.set_device(device)  # ART takes the current one
        processes = join_processes(device)
        out, previous = processes.agree((out, previous))
        left_out = _left_out(given, settings, dataset)
        records = Records(out, settings.as_json(), settings.device, previous, writes=processes.rank == 0)
        lock = _take(out, previous) if processes.rank == 0 else None
    except (ValueError, TypeError, OSError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))
    try:
        records.data["left_out"] = left_out
        # ART warns of what the suite does on purpose (Carlini's clipped images, and the like).
        logging.getLogger("art").setLevel(logging.ERROR)
        complete = run_suite(
            settings,
            dataset,
            records,
            verbose=not given.quiet,
            processes=processes,
            resume=given.resume,
            audits=given.audit,
            interpret=given.interpret,
            workers=_workers(given.jobs, settings, processes),
        )
        if processes.rank == 0:
            program = ["python"] if processes.count == 1 else ["torchrun", f"--nproc-per-node={processes.count}"]
            words = sys.argv[1:] if arguments is None else arguments
            finish(records, shlex.join([*program, "benchmarks/run_art_suite.py", *words]))
    finally:
        if lock is not None:
            lock.release()
    if processes.count > 1:
        processes.gather(None)  # the first process has written its report: all leave together
        leave_processes()
    return 0 if complete else 1


def _take(out: Path, previous: dict[str, Any] | None) -> FolderLock:
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


def _workers(jobs: int | None, settings: SuiteSettings, processes: Processes) -> int:
    """How many processes attack side by side: several where each has one thread and no others share the work."""
    if settings.device != "cpu" or processes.count > 1:
        return 1
    small = RECIPES.get(settings.dataset, FILE_RECIPE).threads == 1 and "OMP_NUM_THREADS" not in os.environ
    return jobs or (len(os.sched_getaffinity(0)) if small and hasattr(os, "sched_getaffinity") else 1)


def _load_plugin(arguments: Sequence[str] | None) -> None:
    """Run the file that registers further defences before the names of defences are parsed."""
    early = OneLineParser(prog="run_art_suite.py", add_help=False, allow_abbrev=False)
    early.add_argument("--plugin", type=Path)
    file = early.parse_known_args(arguments)[0].plugin
    if file is None:
        return
    if not file.is_file():
        early.error(f"`--plugin`: there is no file {file}; expected a Python file that calls register(...)")
    try:
        runpy.run_path(str(file), run_name="plugin")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a user's file raises is one line here
        early.error(f"`--plugin` {file}: {describe(error)}")


def prepare(given: argparse.Namespace) -> tuple[SuiteSettings, Dataset, Path, dict[str, Any] | None]:
    """
    Turn parsed arguments into settings, data and output folder, and check what argparse cannot.

    :param given: Parsed arguments.
    :return: Settings, data set, output folder, results of the run to resume.
    :raises ValueError: If something does not fit.
    :raises FileNotFoundError: If a data file is missing.
    """
    device = given.device if given.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("`--device` is 'cuda', and torch sees no GPU here; expected auto or cpu")
    recipe = RECIPES.get(given.dataset, FILE_RECIPE)
    budget = given.budget or ("smoke" if given.dataset == "digits" else "quick")
    options: dict[str, dict[str, Any]] = {}
    for defence, option, value in given.options:
        options.setdefault(defence, {})[option] = value
    for defence, chosen in options.items():
        sizes = {"eps": recipe.eps[given.norm[0]][-1], "norm": given.norm[0]}
        _check_options(defence, chosen, {**sizes, **recipe.penalties.get(defence, {})})
    dataset = load_dataset(given.dataset, given.data_dir or os.environ.get("ART_SENSREG_DATA"))
    if given.validation:
        dataset = dataset.with_validation_as_test()
    dataset = dataset.limited(given.train_size, given.test_size or recipe.test_size[budget])
    groups = size_groups(given.eps, len(given.norm)) if isinstance(given.eps, str) else given.eps
    threats = pair_threats(given.norm, groups, recipe.eps)
    for threat in threats:
        for eps in threat.eps:
            check_size("--eps", eps, threat.norm, dataset.input_shape)
    for defence, chosen in options.items():
        if isinstance(chosen.get("eps"), (int, float)):
            check_size(f"--set {defence}.eps", chosen["eps"], threats[0].norm, dataset.input_shape)
    settings = SuiteSettings(
        dataset=given.dataset,
        defences=given.defences or (SMOKE_DEFENCES if budget == "smoke" else tuple(DEFENCES)),
        attacks=_attacks(given.attacks, budget, dataset.nb_classes, given.norm),
        threats=threats,
        model=given.model or recipe.model,
        activation=given.activation,
        norm_layer=given.norm_layer,
        budget=budget,
        seeds=given.seeds,
        epochs=given.epochs or recipe.epochs,
        batch_size=given.batch_size or recipe.batch_size,
        learning_rate=given.learning_rate or recipe.learning_rate,
        train_size=given.train_size,
        test_size=len(dataset.x_test),
        validation=given.validation,
        data_crc32=dataset.crc32,
        device=device,
        all_points=given.all_points,
        options=options,
    )
    build_model(settings.model, dataset.input_shape, dataset.nb_classes, settings.activation, settings.norm_layer)
    out = given.out or Path("results") / f"{dataset.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    previous = load_previous(out)
    if previous is not None and not given.resume:
        raise ValueError(f"`--out` {out} holds the results of an earlier run; add --resume, or choose another folder")
    difference = settings.first_difference(previous["config"]) if previous else None
    if difference:
        raise ValueError(f"`--resume`: the run in {out} had other settings: {difference}")
    return settings, dataset, out, previous


def _check_options(defence: str, chosen: dict[str, Any], recipe: dict[str, Any]) -> None:
    try:
        resolve_options(defence, chosen, recipe)
    except (ValueError, TypeError):
        raise
    except Exception as error:  # a defence of a plugin may check its options in any way
        raise ValueError(f"`--set` {defence}: {describe(error)}") from error


def _attacks(given: tuple[str, ...] | None, budget: str, classes: int, norms: tuple[str, ...]) -> tuple[str, ...]:
    """The attacks to run, cheap ones first; those that are not defined are left out, and refused when asked for."""
    unfit = {}
    for name, attack in ATTACKS.items():
        if attack.min_classes > classes:
            unfit[name] = f"needs {attack.min_classes} classes; the data set has {classes}"
        elif not set(norms) & set(attack.norms):
            unfit[name] = f"is not defined in {', '.join(norms)}; only in {', '.join(attack.norms)}"
    if given is not None and given != tuple(ATTACKS):
        for name in given:
            if name in unfit:
                raise ValueError(f"`--attacks` names {name}, which {unfit[name]}")
    return tuple(ordered(name for name in given or default_attacks(budget) if name not in unfit))


def _left_out(given: argparse.Namespace, settings: SuiteSettings, dataset: Dataset) -> list[str]:
    """A line for each attack that would run by default, and is not defined for these classes."""
    wanted = given.attacks or default_attacks(settings.budget)
    few = [name for name in wanted if ATTACKS[name].min_classes > dataset.nb_classes]
    return [f"{name}: needs {ATTACKS[name].min_classes} classes, left out" for name in few]


def finish(records: Records, command: str) -> None:
    """
    Write the report, print the table and the paths.

    :param records: The results.
    :param command: The command that made them.
    """
    from art_sensreg.benchmark.results.report import write_report

    records.save()
    paths = write_report(records.data, records.out, command)
    say(summary_table(records.data).as_text())
    for heading, table in extra_tables(records.data, wide=False):
        say(f"\n{heading}\n{table.as_text()}")
    say(*explanations(records.data), "\nWrote:")
    say(*(f"  {path}" for path in [records.out / "results.json", records.out / "results.csv", *paths]))
    say(f"  {records.out / 'masks'}{'/*.npz'}, {records.out / 'checkpoints'}{'/*.safetensors'}")


def list_names() -> str:
    """Every defence and attack, one line each, and which of ART's defences are missing."""
    lines = ["Defences: what each is, its paper, what is repaired; [metric of its claim: threat]; {options of --set}"]
    for defence in DEFENCES.values():
        repaired = f"; repaired: {defence.repaired}" if defence.repaired else ""
        metric = defence.claim.metric.replace("_", " ").replace("none", "no claim about evasion")
        options = f" {{{', '.join(defence.options)}}}" if defence.options else ""
        unmet = f"; not met on the digits: {defence.claim.unmet}" if defence.claim.unmet else ""
        claim = f"[{metric}: {defence.claim.threat}{unmet}]"
        lines.append(f"  {defence.name:26} {defence.summary} ({defence.paper}{repaired}) {claim}{options}")
    lines.append("Attacks, in the order in which they run:")
    for name in ordered(ATTACKS):
        attack = ATTACKS[name]
        norms = "" if attack.norms == tuple(NORMS) else f"; {', '.join(attack.norms)} only"
        lines.append(f"  {name:26} {attack.summary} ({attack.paper}{norms})")
    lines.append("Of ART's defences for PyTorch no rows, and why:")
    lines += [f"  {names}: {reason}" for names, reason in NO_ROWS.items()]
    return "\n".join(lines)
