"""Command line of the audit: see `python benchmarks/audit.py --help`."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from art_sensreg.auditing import CHECKS
from art_sensreg.benchmark.cli.arguments import OneLineParser, known_names, positive_number, whole_number
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.cli.plugin import load_plugin
from art_sensreg.benchmark.config.audit_request import AuditRequest
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.audit_run import run_audit
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.models import ACTIVATIONS, MODELS, NORM_LAYERS
from art_sensreg.utils.text import escape_markdown, fenced


def make_audit_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = OneLineParser(
        prog="audit.py",
        description="Report, check by check, whether attacks on a model can be trusted.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="weights (safetensors); if they come from a suite run, its settings, twin and surrogates are used too",
    )
    what.add_argument(
        "--defence", choices=tuple(DEFENCES), metavar="NAME", help="train this defence of the suite first"
    )
    what.add_argument("--list", action="store_true", help="list the checks, each with its source, and exit")
    add("--dataset", metavar="NAME", help="digits (default), mnist, cifar10, or an .npz file")
    add("--data-dir", metavar="DIR", help="folder with mnist.npz, cifar10.npz (or set ART_SENSREG_DATA)")
    add("--model", choices=tuple(MODELS), help="default: depends on the data set")
    add("--activation", choices=tuple(ACTIVATIONS), help="default: relu")
    add("--norm-layer", choices=NORM_LAYERS, help="default: none")
    add("--norm", choices=tuple(NORMS), help="default: linf, or that of the run")
    add("--eps", type=positive_number, metavar="EPS", help="default: the middle size of the run or data set")
    add(
        "--points",
        type=whole_number,
        metavar="N",
        help="use the first N test images (default and maximum: 400; quick: 128)",
    )
    add("--twin", type=Path, metavar="FILE", help="weights of the same model trained without penalties")
    add(
        "--surrogate",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        dest="surrogates",
        help="weights of another trained model",
    )
    add("--checks", type=known_names(CHECKS), metavar="NAME,NAME...", help="default: all; see --list")
    add("--plugin", type=Path, metavar="FILE", help="Python file that registers your own checks: docs/extending.md")
    add("--quick", action="store_true", help="fewer points, steps and restarts")
    add("--seed", type=int, default=0, metavar="N")
    add("--epochs", type=whole_number, metavar="N", help="with --defence; default: depends on the data set")
    add("--train-size", type=whole_number, metavar="N", help="use the first N training images")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--out", type=Path, metavar="DIR", help="write audit.json and audit.md; default: results/audit-NAME")
    add("--quiet", action="store_false", dest="verbose", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Audit a model.

    :param arguments: Command line; that of the process if None.
    :return: Exit code: 0 if done, whatever the verdict; 1 if a check raised. Wrong arguments exit with 2, Ctrl-C
        with 130.
    """
    load_plugin(arguments, "audit.py")
    parser = make_audit_parser()
    given = parser.parse_args(arguments)
    if given.list:
        say(*(f"{spec.name:30} {spec.measures} ({spec.source})" for spec in CHECKS.values()))
        return 0
    logging.getLogger("art").setLevel(logging.ERROR)
    try:
        result = run_audit(AuditRequest(**{entry.name: getattr(given, entry.name) for entry in fields(AuditRequest)}))
    except (ValueError, TypeError, OSError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))
    report, out = result.report, result.out
    command = shlex.join(["python", "benchmarks/audit.py", *(sys.argv[1:] if arguments is None else arguments)])
    title = escape_markdown(result.title)
    write_text(out / "audit.json", json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
    write_text(out / "audit.md", f"# Audit: {title}\n\n{fenced(command)}\n\n{report.as_markdown()}")
    say(str(report), f"\nWrote:\n  {out / 'audit.json'}\n  {out / 'audit.md'}")
    return 1 if any(check.status == "ERROR" for check in report.checks) else 0
