"""Command line of the suite: see `python benchmarks/run_art_suite.py --help`."""

from __future__ import annotations

import argparse
import ast
import logging
import os
import runpy
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch

from art_sensreg.benchmark.attacks import ATTACKS, DEFAULT_ATTACKS, NORMS, ordered
from art_sensreg.benchmark.defences import DEFENCES, SMOKE_DEFENCES, resolve_options
from art_sensreg.benchmark.measure_tables import extra_tables
from art_sensreg.benchmark.records import Records
from art_sensreg.benchmark.run import load_previous, run_suite
from art_sensreg.benchmark.settings import BUDGETS, FILE_RECIPE, RECIPES, SuiteSettings
from art_sensreg.benchmark.tables import explanations, summary_table
from art_sensreg.benchmark.threats import pair_threats
from art_sensreg.datasets import Dataset, load_dataset
from art_sensreg.models import ACTIVATIONS, MODELS, NORM_LAYERS, build_model
from art_sensreg.training.distributed import Processes, join_processes, leave_processes, local_device


class OneLineParser(argparse.ArgumentParser):
    """One line that says what is wrong and which values are allowed, and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = OneLineParser(
        prog="run_art_suite.py",
        description="Train each defence, attack each trained model, print one table of worst-case robust accuracy.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--dataset", default="digits", metavar="NAME", help="digits (default), mnist, cifar10, or an .npz file")
    add(
        "--data-dir",
        metavar="DIR",
        help="folder with mnist.npz, cifar10.npz (or set ART_SENSREG_DATA); else ART downloads",
    )
    add(
        "--defences",
        type=known_names(DEFENCES, {"trainers": [name for name, defence in DEFENCES.items() if defence.trained]}),
        metavar="NAME,NAME...",
        help="or all, or trainers; default: at smoke budget the main ones, else all; see --list",
    )
    add(
        "--plugin",
        type=Path,
        metavar="FILE",
        help="Python file that registers your own defences: docs/extending.md",
    )
    add("--attacks", type=known_names(ATTACKS), metavar="NAME,NAME...", help="default: by budget; see --list")
    add("--norm", type=_norms, default=("linf",), metavar="NORM,NORM...", help="linf (default), l2, l1, or several")
    add(
        "--eps",
        type=_size_groups,
        metavar="EPS,EPS...[/EPS,...]",
        help="attack sizes, one group for each norm; the largest of the first is the training eps of ART's trainers",
    )
    add("--all-points", action="store_true", help="every attack on every image, not only on what cheaper ones left")
    add("--audit", action="store_true", help="say of every trained model whether its attacks can be believed")
    add(
        "--interpret",
        action="store_true",
        help="score the explanations of each model, and draw those of three",
    )
    add("--model", choices=tuple(MODELS), help="default: by data set")
    add("--activation", choices=tuple(ACTIVATIONS), default="relu")
    add("--norm-layer", choices=NORM_LAYERS, default="none")
    add("--set", type=_option, action="append", default=[], metavar="DEFENCE.OPTION=VALUE", dest="options")
    add("--budget", choices=BUDGETS, help="strength of the attacks; default: smoke on digits, else quick")
    add("--seeds", type=whole_number, default=1, metavar="N", help="training seeds 0 to N-1 (default 1)")
    add("--epochs", type=whole_number, metavar="N", help="default: by data set")
    add("--batch-size", type=whole_number, metavar="N", help="rows of a training step; default: by data set")
    add(
        "--learning-rate",
        type=positive_number,
        metavar="RATE",
        help="peak of the one-cycle schedule; default: by data set",
    )
    add("--train-size", type=whole_number, metavar="N", help="use the first N training images")
    add("--test-size", type=whole_number, metavar="N", help="attack the first N test images")
    add("--validation", action="store_true", help="attack held-out training images instead: for choosing settings")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--out", type=Path, metavar="DIR", help="default: results/DATASET-TIME")
    add("--resume", action="store_true", help="keep the finished cells of the run in --out")
    add("--list", action="store_true", help="list defences and attacks, each with its paper, and stop")
    add(
        "--jobs",
        type=whole_number,
        metavar="N",
        help="processes that attack models side by side, on the CPU; default: all cores on digits (unless "
        "OMP_NUM_THREADS is set), else 1",
    )
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the suite.

    :param arguments: Command line; that of the process if None.
    :return: Exit code: 0 done, 1 a cell failed (what was done is kept). Wrong arguments exit with 2.
    """
    _load_plugin(arguments)
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.list:
        print(list_names())
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
        records = Records(out, settings.as_json(), settings.device, previous, writes=processes.rank == 0)
    except (ValueError, TypeError, OSError) as error:
        parser.error(" ".join(str(error).split()))
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
    if processes.count > 1:
        processes.gather(None)  # the first process has written its report: all leave together
        leave_processes()
    return 0 if complete else 1


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
    except Exception as error:  # noqa: BLE001 - whatever a user's file raises is one line here
        early.error(f"`--plugin` {file}: {type(error).__name__}: {error}")


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
        resolve_options(defence, chosen, {**sizes, **recipe.penalties.get(defence, {})})
    dataset = load_dataset(given.dataset, given.data_dir or os.environ.get("ART_SENSREG_DATA"))
    if given.validation:
        dataset = dataset.with_validation_as_test()
    dataset = dataset.limited(given.train_size, given.test_size or recipe.test_size[budget])
    settings = SuiteSettings(
        dataset=given.dataset,
        defences=given.defences or (SMOKE_DEFENCES if budget == "smoke" else tuple(DEFENCES)),
        attacks=_attacks(given.attacks, budget, dataset.nb_classes, given.norm),
        threats=pair_threats(given.norm, given.eps, recipe.eps),
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
    return tuple(ordered(name for name in given or DEFAULT_ATTACKS[budget] if name not in unfit))


def finish(records: Records, command: str) -> None:
    """
    Write the report, print the table and the paths.

    :param records: The results.
    :param command: The command that made them.
    """
    from art_sensreg.benchmark.report import write_report

    records.save()
    paths = write_report(records.data, records.out, command)
    print(summary_table(records.data).as_text())
    for heading, table in extra_tables(records.data, wide=False):
        print(f"\n{heading}\n{table.as_text()}")
    for line in explanations(records.data):
        print(line)
    print("\nWrote:")
    for path in [records.out / "results.json", records.out / "results.csv", *paths]:
        print(f"  {path}")
    print(f"  {records.out / 'masks'}{'/*.npz'}, {records.out / 'checkpoints'}{'/*.safetensors'}")


def list_names() -> str:
    """Every defence and attack, one line each."""
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
    return "\n".join(lines)


def known_names(known: dict[str, Any], groups: dict[str, list[str]] | None = None) -> Any:
    """
    Make a parser of names separated by commas, for argparse.

    :param known: The names allowed; `all` stands for all of them.
    :param groups: Further words, and the names that they stand for.
    :return: Function of a text that returns a tuple of names.
    """

    def parse(text: str) -> tuple[str, ...]:
        if text == "all":
            return tuple(known)
        words = filter(None, text.split(","))
        names = tuple(dict.fromkeys(name for word in words for name in (groups or {}).get(word, [word])))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'} is unknown; expected {', '.join(['all', *(groups or {}), *known])}"
            )
        return names

    return parse


def positive_number(text: str) -> float:
    """
    Parse a finite number above 0, for argparse.

    :param text: The text.
    :return: The number.
    :raises argparse.ArgumentTypeError: If it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _norms(text: str) -> tuple[str, ...]:
    norms: tuple[str, ...] = known_names(NORMS)(text)
    return norms


def _size_groups(text: str) -> list[tuple[float, ...]]:
    return [_sizes(group) for group in text.split("/")]


def _sizes(text: str) -> tuple[float, ...]:
    return tuple(sorted({positive_number(part) for part in text.split(",")}))


def whole_number(text: str) -> int:
    """
    Parse a whole number of at least 1, for argparse.

    :param text: The text.
    :return: The number.
    :raises argparse.ArgumentTypeError: If it is none.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _option(text: str) -> tuple[str, str, Any]:
    path, equals, value = text.partition("=")
    defence, dot, option = path.rpartition(".")
    if not equals or not dot or defence not in DEFENCES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not DEFENCE.OPTION=VALUE with a defence of {', '.join(DEFENCES)}"
        )
    try:
        return defence, option, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return defence, option, value
