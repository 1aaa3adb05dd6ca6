"""Command line of the audit: see `art-sensreg audit --help`."""

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
from art_sensreg.benchmark.cli.arguments import (
    command_words,
    known_names,
    network_name,
    positive_number,
    program_parser,
    whole_number,
)
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.cli.listing import list_checks
from art_sensreg.benchmark.cli.plugin import load_plugin
from art_sensreg.benchmark.config.audit_request import AuditRequest
from art_sensreg.benchmark.config.networks import is_own
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.engine.audit_run import run_audit
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.models import ACTIVATIONS, MODELS, NORM_LAYERS
from art_sensreg.utils.text import escape_markdown, fenced

_EXAMPLES = """
  art-sensreg audit --defence sr+jr                train it and its twin on the digits first
  art-sensreg audit --model my_net.py:build --weights my_net.pt --data my_images.npz --eps 8/255
  art-sensreg audit --checkpoint results/mine/checkpoints/sr+jr-seed0.safetensors --eps 0.1
  art-sensreg audit --defence art-madry --checks gradients_not_zero,white_box_beats_black_box
"""


def make_audit_parser(prog: str = "audit.py") -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = program_parser(prog, "Report, check by check, whether attacks on a model can be trusted.", _EXAMPLES)
    _add_target(parser)
    _add_attack(parser)
    _add_run(parser)
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is audited")
    what = group.add_mutually_exclusive_group()
    what.add_argument(
        "--checkpoint",
        "--weights",
        type=Path,
        metavar="FILE",
        help="weights of --model (safetensors, or what torch.load reads safely); if they come from a suite run, its "
        "settings, twin and surrogates are used too",
    )
    what.add_argument(
        "--defence", choices=tuple(DEFENCES), metavar="NAME", help="train this defence of the suite first"
    )
    what.add_argument("--list", action="store_true", help="list the checks, each with its source, and exit")
    add = group.add_argument
    add(
        "--model",
        type=network_name,
        metavar="NETWORK",
        help=f"{', '.join(MODELS)}; or your own, with the weights that it brings: FILE.py:FUNCTION, timm:NAME, "
        "torchvision:NAME, robustbench:NAME; default: depends on the data set",
    )
    add("--activation", choices=tuple(ACTIVATIONS), help="default: relu")
    add("--norm-layer", choices=NORM_LAYERS, help="default: none")
    add(
        "--dataset",
        "--data",
        metavar="DATA",
        help="digits (default), mnist, cifar10, an .npz file, a folder of images, or FILE.py:FUNCTION",
    )
    add("--data-dir", metavar="DIR", help="folder with mnist.npz, cifar10.npz (or set ART_SENSREG_DATA)")
    add("--epochs", type=whole_number, metavar="N", help="with --defence; default: depends on the data set")
    add("--train-size", type=whole_number, metavar="N", help="use the first N training images")


def _add_attack(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how").add_argument
    add("--norm", choices=tuple(NORMS), help="default: linf, or that of the run")
    add("--eps", type=positive_number, metavar="EPS", help="0.1 or 8/255; default: the middle size of run or data set")
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
    add("--quick", action="store_true", help="fewer points, steps and restarts")
    add("--seed", type=int, default=0, metavar="N", help="of the training and of the audit (default 0)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the run and its results").add_argument
    add(
        "--out", type=Path, metavar="DIR", help="write audit.json, audit.md and audit.html; default: results/audit-NAME"
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto, a GPU if there is one")
    add("--plugin", type=Path, metavar="FILE", help="Python file that registers your own checks: docs/extending.md")
    add("--quiet", action="store_false", dest="verbose", help="no progress bar")


def main(arguments: Sequence[str] | None = None, prog: str = "audit.py") -> int:
    """
    Audit a model.

    :param arguments: Command line; that of the process if None.
    :param prog: Name of the program, for its messages.
    :return: Exit code: 0 if done, whatever the verdict; 1 if a check raised. Wrong arguments exit with 2, Ctrl-C
        with 130.
    """
    load_plugin(arguments, prog)
    parser = make_audit_parser(prog)
    given = parser.parse_args(arguments)
    if given.list:
        say(list_checks())
        return 0
    if given.checkpoint is None and given.defence is None and not (given.model and is_own(given.model)):
        parser.error(
            "one of the arguments --checkpoint, --weights, --defence or --list is required, or a --model of your own, "
            "FILE.py:FUNCTION"
        )
    logging.getLogger("art").setLevel(logging.ERROR)
    try:
        result = run_audit(AuditRequest(**{entry.name: getattr(given, entry.name) for entry in fields(AuditRequest)}))
    except (ValueError, TypeError, OSError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))
    report, out = result.report, result.out
    command = shlex.join([*command_words(prog), *(sys.argv[1:] if arguments is None else arguments)])
    title = escape_markdown(result.title)
    write_text(out / "audit.json", json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
    write_text(out / "audit.md", f"# Audit: {title}\n\n{fenced(command)}\n\n{report.as_markdown()}")
    write_text(out / "audit.html", report.to_html(f"Audit: {result.title}"))
    say(str(report), "\nWrote:", *(f"  {out / name}" for name in ("audit.json", "audit.md", "audit.html")))
    return 1 if any(check.status == "ERROR" for check in report.checks) else 0
