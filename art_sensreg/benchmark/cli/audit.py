"""Command line of the audit: see `python benchmarks/audit.py --help`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from art_sensreg.art_bridge.weights import load_weights
from art_sensreg.attacks.base.sizes import check_size
from art_sensreg.auditing import CHECKS, AuditReport
from art_sensreg.benchmark.cli.arguments import OneLineParser, known_names, positive_number, whole_number
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.registry import DEFENCES, options_of
from art_sensreg.benchmark.engine.audit import ADVERSARIAL, audit_cell, audited_threat
from art_sensreg.benchmark.engine.context import SuiteContext, training_spec
from art_sensreg.benchmark.engine.plan import plan_training
from art_sensreg.benchmark.engine.suite import resumed_results, use_threads_of
from art_sensreg.benchmark.engine.target import Target, make_target
from art_sensreg.benchmark.engine.train import train_run
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.datasets import Dataset
from art_sensreg.models import ACTIVATIONS, MODELS, NORM_LAYERS
from art_sensreg.utils import check_seed
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.text import escape_markdown, fenced

# What `--defence` trains beside the defence, for want of a run that has it: the twin, and the cheapest surrogate.
_BESIDE = ("none", "art-fbf-fixed")
# A folder without a run: what is audited from a file resumes none.
_NO_RUN = Path("results") / "no-run"


def make_audit_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = OneLineParser(
        prog="audit.py",
        description="Say, check by check, whether attacks on a model can be believed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="weights (safetensors); of a run of the suite, its settings, twin and surrogates are found beside them",
    )
    what.add_argument(
        "--defence", choices=tuple(DEFENCES), metavar="NAME", help="train this defence of the suite first"
    )
    what.add_argument("--list", action="store_true", help="list the checks, each with its source, and stop")
    add("--dataset", metavar="NAME", help="digits (default), mnist, cifar10, or an .npz file")
    add("--data-dir", metavar="DIR", help="folder with mnist.npz, cifar10.npz (or set ART_SENSREG_DATA)")
    add("--model", choices=tuple(MODELS), help="default: by data set")
    add("--activation", choices=tuple(ACTIVATIONS), help="default: relu")
    add("--norm-layer", choices=NORM_LAYERS, help="default: none")
    add("--norm", choices=tuple(NORMS), help="default: linf, or the run's")
    add("--eps", type=positive_number, metavar="EPS", help="default: the middle one of the data set's or the run's")
    add("--points", type=whole_number, metavar="N", help="the first N test images (default and most: 400; quick 128)")
    add("--twin", type=Path, metavar="FILE", help="weights of the same model trained without penalties")
    add("--surrogate", type=Path, action="append", default=[], metavar="FILE", help="weights of another trained model")
    add("--checks", type=known_names(CHECKS), metavar="NAME,NAME...", help="default: all; see --list")
    add("--quick", action="store_true", help="fewer points, steps and restarts")
    add("--seed", type=int, default=0, metavar="N")
    add("--epochs", type=whole_number, metavar="N", help="with --defence; default: by data set")
    add("--train-size", type=whole_number, metavar="N", help="use the first N training images")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--out", type=Path, metavar="DIR", help="write audit.json and audit.md; default: results/audit-NAME")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Audit a model.

    :param arguments: Command line; that of the process if None.
    :return: Exit code: 0 done, whatever the verdict; 1 a check raised. Wrong arguments exit with 2, Ctrl-C with 130.
    """
    parser = make_audit_parser()
    given = parser.parse_args(arguments)
    if given.list:
        say(*(f"{spec.name:30} {spec.measures} ({spec.source})" for spec in CHECKS.values()))
        return 0
    logging.getLogger("art").setLevel(logging.ERROR)
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "benchmarks/audit.py", *words])
    try:
        check_seed("--seed", given.seed)
        report, title, out = _audited_file(given) if given.checkpoint else _audited_defence(given)
    except (ValueError, TypeError, OSError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))
    write_text(out / "audit.json", json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
    write_text(out / "audit.md", f"# Audit: {escape_markdown(title)}\n\n{fenced(command)}\n\n{report.as_markdown()}")
    say(str(report), f"\nWrote:\n  {out / 'audit.json'}\n  {out / 'audit.md'}")
    return 1 if any(check.status == "ERROR" for check in report.checks) else 0


def _audited_defence(given: argparse.Namespace) -> tuple[AuditReport, str, Path]:
    """Train a defence, its twin and a surrogate, then audit."""
    names = list(dict.fromkeys([*_BESIDE, given.defence]))
    out = given.out or Path("results") / f"audit-{given.defence}"
    try:
        settings, dataset, previous = _settings(given, _request(given, names, out))
    except ValueError as error:
        if "--resume" in str(error):
            raise ValueError(f"`--out` {out} holds models of other settings; choose another folder") from None
        raise
    suite = SuiteContext(settings=settings, dataset=dataset, store=ResultStore(out, settings, previous))
    cells: dict[str, Target | None] = {name: train_run(suite, name, given.seed) for name in names}
    if cells[given.defence] is None:
        run = suite.store.results.run(given.defence, given.seed)
        raise ValueError(f"`--defence` {given.defence} cannot be trained here: {run.reason if run else ''}")
    title = f"{given.defence} on {dataset.name}, {settings.model}"
    return _audit(given, settings, dataset, given.defence, cells, given.seed), title, out


def _audited_file(given: argparse.Namespace) -> tuple[AuditReport, str, Path]:
    """Audit the weights in a file; what stands beside them in a run of the suite is used."""
    if not given.checkpoint.is_file():
        raise ValueError(f"`--checkpoint`: there is no file {given.checkpoint}")
    match = re.fullmatch(r"(.+)-seed(\d+)", given.checkpoint.stem)
    name = match.group(1) if match and match.group(1) in DEFENCES else "none"
    seed = int(match.group(2)) if match else given.seed
    stored = _stored_settings(given.checkpoint)
    out = usable_folder("--out", given.out or Path("results") / f"audit-{given.checkpoint.stem}")
    settings, dataset, _ = _settings(given, _request(given, [name], _NO_RUN, stored))
    files = {other: given.checkpoint.with_name(f"{other}-seed{seed}.safetensors") for other in ("none", *ADVERSARIAL)}
    beside = {other: file for other, file in files.items() if stored and file.is_file() and other != name}
    cells: dict[str, Target | None] = {
        other: loaded_cell(settings, dataset, seed, file, other) for other, file in beside.items()
    }
    cells[name] = loaded_cell(settings, dataset, seed, given.checkpoint, name)
    known = stored is not None and match is not None
    if not known:  # nothing is known of how a bare file was trained
        given.penalties = []
    title = f"{given.checkpoint.name} on {dataset.name}, {settings.model}"
    return _audit(given, settings, dataset, name, cells, seed, own_twin=known), title, out


def _audit(
    given: argparse.Namespace,
    settings: SuiteSettings,
    dataset: Dataset,
    name: str,
    cells: dict[str, Target | None],
    seed: int,
    own_twin: bool = True,
) -> AuditReport:
    norm, eps = audited_threat(settings)
    arguments: dict[str, Any] = {
        "eps": given.eps or eps,
        "norm": given.norm or norm,
        "seed": given.seed,
        "checks": given.checks,
        "verbose": not given.quiet,
    }
    if not own_twin and name == "none":
        arguments["twin"] = None
    if hasattr(given, "penalties"):
        arguments["penalties"] = given.penalties
    # What is named on the command line comes before what lies beside the model.
    if given.twin:
        arguments["twin"] = loaded_cell(settings, dataset, seed, given.twin, "none").model
    if given.surrogate:
        arguments["surrogates"] = [loaded_cell(settings, dataset, seed, file, "none").model for file in given.surrogate]
    dataset = dataset.limited(test_size=given.points)
    return audit_cell(settings, dataset, name, cells, quick=given.quick, **arguments)


def _request(
    given: argparse.Namespace, names: list[str], out: Path, stored: SuiteSettings | None = None
) -> SuiteRequest:
    """What the suite is asked for, so that both take the same defaults; those of a stored run where none is given."""
    norms, eps = ("linf",), None
    if stored is not None and len(stored.threats) == 1:
        norms, eps = (stored.threats[0].norm,), (stored.threats[0].eps,)
    if given.norm and (given.norm,) != norms:
        norms, eps = (given.norm,), None
    taken = ("dataset", "model", "activation", "norm_layer", "epochs", "train_size")
    values = {name: getattr(given, name) or getattr(stored, name, None) for name in taken}
    return SuiteRequest(
        **{name: value for name, value in values.items() if value},
        defences=tuple(names),
        norms=norms,
        eps=eps,
        out=out,
        device=given.device,
        data_dir=given.data_dir,
        resume=True,  # the folder may hold an earlier audit
    )


def _settings(given: argparse.Namespace, request: SuiteRequest) -> tuple[SuiteSettings, Dataset, Results | None]:
    plan = plan_training(request)
    previous = resumed_results(plan)
    settings, dataset = plan.settings, plan.dataset
    if given.eps:  # before anything is trained
        check_size("--eps", given.eps, given.norm or settings.threats[0].norm, dataset.input_shape)
    use_threads_of(plan)
    return settings, dataset, previous


def _stored_settings(checkpoint: Path) -> SuiteSettings | None:
    """The settings of the run of the suite that a checkpoint lies in, if it lies in one; what is no run is refused."""
    path = checkpoint.resolve().parent.parent / "results.json"
    if not os.path.lexists(path):
        return None
    return read_results(path).config


def settings_of_run(folder: Path, name: str, data_dir: str | None = None) -> tuple[SuiteSettings, Dataset]:
    """
    Settings and data of a run of the suite, all test images.

    :param folder: Its output folder.
    :param name: A defence.
    :param data_dir: Folder of the data.
    :return: Settings and data.
    :raises ValueError: If the folder holds no run.
    """
    checkpoint = folder / "checkpoints" / f"{name}-seed0.safetensors"
    stored = _stored_settings(checkpoint)
    if stored is None:
        raise ValueError(f"{folder} holds no `results.json` of a run of the suite")
    given = make_audit_parser().parse_args(["--checkpoint", str(checkpoint)])
    given.data_dir = data_dir
    request = _request(given, [name], _NO_RUN, stored)
    return _settings(given, replace(request, test_size=10**9))[:2]


def loaded_cell(settings: SuiteSettings, dataset: Dataset, seed: int, file: Path, name: str) -> Target:
    """
    A cell of the suite from a file of weights.

    :param settings: Settings of the run.
    :param dataset: The data.
    :param seed: Seed of the cell.
    :param file: The weights.
    :param name: The defence, for its preprocessing.
    :return: The cell.
    :raises ValueError: If the file holds other weights.
    """
    task, defence, options = training_spec(settings, dataset, seed), DEFENCES[name], options_of(settings, name)
    model = defence.new_model(task, options)
    try:
        load_weights(file, model)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{file} does not hold the weights of {settings.model} for {dataset.name}: {reason}") from None
    return make_target(task, task.classifier(model), defence, options, settings.budget)
