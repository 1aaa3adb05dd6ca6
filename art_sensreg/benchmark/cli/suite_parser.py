"""The suite's command line: its arguments in groups, and the request that they describe."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.cli.arguments import (
    known_names,
    network_name,
    positive_number,
    program_parser,
    size_groups,
    whole_number,
)
from art_sensreg.benchmark.config.optimization import (
    OPTIMIZATION_OPTIONS,
    OPTIMIZERS,
    SCHEDULES,
    OptimizationSettings,
)
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import BUDGETS
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.benchmark.results.export import EXPORTS
from art_sensreg.models import ACTIVATIONS, MODELS, NORM_LAYERS
from art_sensreg.training.config import PRECISIONS
from art_sensreg.utils.checks import did_you_mean

_EXAMPLES = """
  art-sensreg bench --budget smoke                                   a table in minutes
  art-sensreg bench --dataset mnist --defences none,sr+jr,art-madry --seeds 3
  art-sensreg bench --model my_net.py:build --data my_images/ --eps 8/255
  art-sensreg bench --norm linf,l2 --eps '8/255;0.5' --audit         two norms, every model audited
  art-sensreg bench --out results/mine --resume                      continue a run
"""
Add = Callable[..., Any]


def make_parser(prog: str = "run_art_suite.py") -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = program_parser(
        prog,
        "Train each defence, attack each trained model, and print one table of worst-case robust accuracy.",
        _EXAMPLES,
    )
    for title, add_all in (
        ("data and network", _network_arguments),
        ("what is trained", _training_arguments),
        ("how every defence is optimised; default: the defence's own (see --list NAME)", _optimization_arguments),
        ("attacks", _attack_arguments),
        ("the run and its results", _run_arguments),
    ):
        add_all(parser.add_argument_group(title).add_argument)
    return parser


def _network_arguments(add: Add) -> None:
    add(
        "--dataset",
        "--data",
        default="digits",
        metavar="DATA",
        help="digits (default), mnist, cifar10, an .npz file, a folder of images (train/CLASS/*.png and "
        "test/CLASS/*.png), or FILE.py:FUNCTION that returns x_train, y_train, x_test, y_test",
    )
    add(
        "--data-dir",
        metavar="DIR",
        help="folder with mnist.npz, cifar10.npz (or set ART_SENSREG_DATA); otherwise they are downloaded",
    )
    add(
        "--model",
        type=network_name,
        metavar="NETWORK",
        help=f"{', '.join(MODELS)}; or your own: FILE.py:FUNCTION, timm:NAME, torchvision:NAME (random weights), "
        "robustbench:NAME; default: depends on the data set",
    )
    add(
        "--weights",
        metavar="FILE",
        help="weights that every defence begins its training with (safetensors, or what torch.load reads safely)",
    )
    add("--activation", choices=tuple(ACTIVATIONS), default="relu", help="of our models; default: relu")
    add("--norm-layer", choices=NORM_LAYERS, default="none", help="of our models; default: none")
    add("--train-size", type=whole_number, metavar="N", help="use the first N training images")
    add("--test-size", type=whole_number, metavar="N", help="attack the first N test images")
    add("--validation", action="store_true", help="attack held-out training images instead: for choosing settings")


def _training_arguments(add: Add) -> None:
    add(
        "--defences",
        type=known_names(DEFENCES, {"trainers": [name for name, defence in DEFENCES.items() if defence.trained]}),
        metavar="NAME,NAME...",
        help="or all, or trainers; default: the main ones at smoke budget, otherwise all; see --list",
    )
    add(
        "--set",
        type=_option,
        action="append",
        default=[],
        metavar="DEFENCE.OPTION=VALUE",
        dest="options",
        help="an option of one defence (`art-sensreg list NAME` shows them); may be given several times",
    )
    add("--seeds", type=whole_number, default=1, metavar="N", help="training seeds 0 to N-1 (default 1)")
    add("--epochs", type=whole_number, metavar="N", help="default: depends on the data set")
    add(
        "--batch-size",
        type=whole_number,
        metavar="N",
        help="examples per training step; default: depends on the data set",
    )
    add(
        "--learning-rate",
        type=positive_number,
        metavar="RATE",
        help="peak of the schedule; default: depends on data set and optimizer",
    )


def _optimization_arguments(add: Add) -> None:
    add("--optimizer", choices=OPTIMIZERS)
    add("--momentum", type=float, metavar="M", help="of sgd; default 0.9")
    add("--weight-decay", type=float, metavar="W", help="decoupled with adamw, else added to gradients")
    add("--label-smoothing", type=float, metavar="S", help="share of a label spread over all classes")
    add("--schedule", choices=SCHEDULES, help="piecewise: a tenth after 1/2 and after 3/4 of the steps")
    add(
        "--weight-average",
        type=float,
        metavar="DECAY",
        help="attack the exponential moving average of the weights, with this decay once warmed up",
    )
    add("--max-grad-norm", type=float, metavar="NORM", help="shorten longer gradients of all weights to this norm")
    add("--precision", choices=PRECISIONS, help="mixed precision, of this package's trainers")
    add(
        "--augment",
        metavar="crop=N,flip,cutout=N",
        help="random crops after padding by N pixels, flips, boxes of N x N pixels cut out, or some of these; for "
        "CIFAR-10 crop=4,flip",
    )


def _attack_arguments(add: Add) -> None:
    add("--budget", choices=BUDGETS, help="strength of the attacks; default: smoke on digits, otherwise quick")
    add(
        "--norm",
        type=known_names(NORMS),
        default=("linf",),
        dest="norms",
        metavar="NORM,NORM...",
        help="linf (default), l2, l1, or several",
    )
    add(
        "--eps",
        type=_eps,
        metavar="EPS,EPS...[;EPS,...]",
        help="attack sizes, numbers or fractions such as 8/255, one group for each norm; the largest of the first is "
        "the training eps of ART's trainers",
    )
    add(
        "--attacks",
        type=known_names(ATTACKS),
        metavar="NAME,NAME...",
        help="default: depends on the budget; see --list",
    )
    add("--all-points", action="store_true", help="run every attack on every image, not only on those left so far")
    add("--audit", action="store_true", help="audit every trained model: can the attacks on it be trusted?")
    add(
        "--interpret",
        action="store_true",
        help="score the explanations of every model, and plot those of three",
    )


def _run_arguments(add: Add) -> None:
    add("--out", type=Path, metavar="DIR", help="default: results/DATASET-TIME")
    add(
        "--export",
        type=known_names(dict.fromkeys(EXPORTS)),
        metavar="FORM,FORM...",
        help=f"write the table in further forms: {', '.join(EXPORTS)}",
    )
    add("--resume", action="store_true", help="continue the run in --out, keeping what is finished")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto, a GPU if there is one")
    add(
        "--jobs",
        type=whole_number,
        metavar="N",
        help="processes that attack models in parallel, on the CPU; default: all cores on digits (unless "
        "OMP_NUM_THREADS is set), else 1",
    )
    add(
        "--plugin",
        type=Path,
        metavar="FILE",
        help="Python file that registers your own defences, attacks or checks: docs/extending.md",
    )
    add("--list", nargs="*", metavar="NAME", help="list defences and attacks with their papers, or one, and exit")
    add("--quiet", action="store_false", dest="verbose", help="no progress bar")


def request_of(given: argparse.Namespace) -> SuiteRequest:
    """
    The request described by parsed arguments.

    :raises argparse.ArgumentTypeError: If the sizes do not fit the norms.
    :raises ValueError: If the optimisation is not possible.
    """
    optimization = OptimizationSettings(**{name: getattr(given, name) for name in OPTIMIZATION_OPTIONS})
    values: dict[str, Any] = {entry.name: getattr(given, entry.name, None) for entry in fields(SuiteRequest)}
    options: dict[str, dict[str, Any]] = {}
    for defence, option, value in given.options:
        options.setdefault(defence, {})[option] = value
    eps = None if given.eps is None else tuple(size_groups(given.eps, len(given.norms)))
    return SuiteRequest(**{**values, "options": options, "eps": eps, "optimization": optimization})


def _eps(text: str) -> str:
    """Check sizes as far as possible before the norms are known."""
    for part in re.split("[,;/]", text):
        if not part.isascii():  # digits of other scripts are not accepted in fractions
            raise argparse.ArgumentTypeError(f"{part!r} is not a number above 0")
        positive_number(part)
    return text


def _option(text: str) -> tuple[str, str, Any]:
    path, equals, value = text.partition("=")
    defence, dot, option = path.rpartition(".")
    if not equals or not dot or defence not in DEFENCES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not DEFENCE.OPTION=VALUE with a defence of {', '.join(DEFENCES)}"
            f"{did_you_mean(defence, DEFENCES) if defence else ''}"
        )
    if re.fullmatch(r"\d+(\.\d+)?/\d+(\.\d+)?", value, re.ASCII):
        return defence, option, positive_number(value)
    try:
        return defence, option, ast.literal_eval(value)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return defence, option, value
