"""The suite's command-line arguments, and how they are parsed."""

from __future__ import annotations

import argparse
import ast
import itertools
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from art_sensreg.attacks.base.sizes import parse_size
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.config.request import SuiteRequest
from art_sensreg.benchmark.config.settings import BUDGETS
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.benchmark.defences.registry import DEFENCES
from art_sensreg.models import ACTIVATIONS, MODELS, NORM_LAYERS
from art_sensreg.utils.checks import did_you_mean
from art_sensreg.utils.text import one_line

# A number, or a fraction of whole numbers: the entries of a comma-separated list.
_ONE_SIZE = re.compile(r"[^/]+|[0-9]+/[0-9]+")
# Characters of an error at most: all names of attacks and defences fit, what a stranger wrote into a file need not.
_LONGEST = 2000
# The largest count on a command line.
_MOST = 10**9


class OneLineParser(argparse.ArgumentParser):
    """Exit with code 2 and one line: what is wrong, which values are allowed, and which one was probably meant."""

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
        if unknown:
            message += did_you_mean(unknown[1], self._option_string_actions)
        line = one_line(message)
        line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
        self.exit(2, f"{self.prog}: error: {line}\n")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if action.type is Path and not arg_string.strip():  # which would be the present folder
            raise argparse.ArgumentError(action, f"{arg_string!r} is not a path")
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            hint = did_you_mean(value, map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{hint}") from None


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = OneLineParser(
        prog="run_art_suite.py",
        description="Train each defence, attack each trained model, and print one table of worst-case robust accuracy.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--dataset", default="digits", metavar="NAME", help="digits (default), mnist, cifar10, or an .npz file")
    add(
        "--data-dir",
        metavar="DIR",
        help="folder with mnist.npz, cifar10.npz (or set ART_SENSREG_DATA); otherwise they are downloaded",
    )
    add(
        "--defences",
        type=known_names(DEFENCES, {"trainers": [name for name, defence in DEFENCES.items() if defence.trained]}),
        metavar="NAME,NAME...",
        help="or all, or trainers; default: the main ones at smoke budget, otherwise all; see --list",
    )
    add(
        "--plugin",
        type=Path,
        metavar="FILE",
        help="Python file that registers your own defences, attacks or checks: docs/extending.md",
    )
    add(
        "--attacks",
        type=known_names(ATTACKS),
        metavar="NAME,NAME...",
        help="default: depends on the budget; see --list",
    )
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
    add("--all-points", action="store_true", help="run every attack on every image, not only on those left so far")
    add("--audit", action="store_true", help="audit every trained model: can the attacks on it be trusted?")
    add(
        "--interpret",
        action="store_true",
        help="score the explanations of every model, and plot those of three",
    )
    add("--model", choices=tuple(MODELS), help="default: depends on the data set")
    add("--activation", choices=tuple(ACTIVATIONS), default="relu")
    add("--norm-layer", choices=NORM_LAYERS, default="none")
    add("--set", type=_option, action="append", default=[], metavar="DEFENCE.OPTION=VALUE", dest="options")
    add("--budget", choices=BUDGETS, help="strength of the attacks; default: smoke on digits, otherwise quick")
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
        help="peak of the one-cycle schedule; default: depends on the data set",
    )
    add("--train-size", type=whole_number, metavar="N", help="use the first N training images")
    add("--test-size", type=whole_number, metavar="N", help="attack the first N test images")
    add("--validation", action="store_true", help="attack held-out training images instead: for choosing settings")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--out", type=Path, metavar="DIR", help="default: results/DATASET-TIME")
    add("--resume", action="store_true", help="continue the run in --out, keeping what is finished")
    add("--list", action="store_true", help="list defences and attacks, each with its paper, and exit")
    add(
        "--jobs",
        type=whole_number,
        metavar="N",
        help="processes that attack models in parallel, on the CPU; default: all cores on digits (unless "
        "OMP_NUM_THREADS is set), else 1",
    )
    add("--quiet", action="store_false", dest="verbose", help="no progress bar")
    return parser


def request_of(given: argparse.Namespace) -> SuiteRequest:
    """
    The request described by parsed arguments.

    :raises argparse.ArgumentTypeError: If the sizes do not fit the norms.
    """
    values = {entry.name: getattr(given, entry.name) for entry in fields(SuiteRequest)}
    options: dict[str, dict[str, Any]] = {}
    for defence, option, value in given.options:
        options.setdefault(defence, {})[option] = value
    eps = None if given.eps is None else tuple(size_groups(given.eps, len(given.norms)))
    return SuiteRequest(**{**values, "options": options, "eps": eps})


def known_names(known: dict[str, Any], groups: dict[str, list[str]] | None = None) -> Any:
    """A parser of comma-separated names, for argparse; `all` and group names stand for several."""

    def parse(text: str) -> tuple[str, ...]:
        if text == "all":
            return tuple(known)
        words = filter(None, text.split(","))
        names = tuple(dict.fromkeys(name for word in words for name in (groups or {}).get(word, [word])))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            allowed = ["all", *(groups or {}), *known]
            hint = did_you_mean(unknown[0], allowed) if unknown else ""
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'} is unknown; expected {', '.join(allowed)}{hint}"
            )
        return names

    return parse


def positive_number(text: str) -> float:
    """Parse a finite number above 0, or a fraction such as 8/255, for argparse."""
    try:
        return parse_size("size", text)
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0") from None


def size_groups(text: str, count: int) -> list[tuple[float, ...]]:
    """
    Parse groups of attack sizes, one for each norm.

    Groups are separated by `;`, or by `/` as long as it is clear which of the slashes belong to fractions.

    :raises argparse.ArgumentTypeError: If a size is not a number above 0, or it is not clear what a slash means.

    Example:
    >>> from art_sensreg.benchmark.cli.arguments import size_groups
    >>> size_groups("51/255,102/255", 1), size_groups("51/255/0.5", 2)
    ([(0.2, 0.4)], [(0.2,), (0.5,)])
    """
    if ";" in text:
        return [sizes(group) for group in text.split(";")]
    parts = text.split("/")
    if len(parts) > 20:
        raise argparse.ArgumentTypeError(f"{text[:60]!r}... has too many groups of sizes")
    readings = []
    for separators in itertools.combinations(range(1, len(parts)), min(count, len(parts)) - 1):
        ends = [0, *separators, len(parts)]
        groups = ["/".join(parts[start:end]) for start, end in itertools.pairwise(ends)]
        if all(_ONE_SIZE.fullmatch(size) for group in groups for size in group.split(",")):
            readings.append(groups)
    if len(readings) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} can be read in several ways; separate the groups by ; (in quotes)")
    return [sizes(group) for group in (readings[0] if readings else parts)]


def sizes(text: str) -> tuple[float, ...]:
    """
    Parse attack sizes separated by commas, for argparse.

    :raises argparse.ArgumentTypeError: If one of them is not a number above 0.

    Example:
    >>> from art_sensreg.benchmark.cli.arguments import sizes
    >>> sizes("0.5,51/255")
    (0.2, 0.5)
    """
    return tuple(sorted({positive_number(part) for part in text.split(",")}))


def _eps(text: str) -> str:
    """Check sizes as far as possible before the norms are known."""
    for part in re.split("[,;/]", text):
        if not part.isascii():  # digits of other scripts are not accepted in fractions
            raise argparse.ArgumentTypeError(f"{part!r} is not a number above 0")
        positive_number(part)
    return text


def whole_number(text: str) -> int:
    """
    Parse a whole number of at least 1, for argparse.

    :raises argparse.ArgumentTypeError: If it is none.
    """
    if not text.isascii() or not text.isdecimal() or not text.strip("0"):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a whole number of at least 1")
    if len(text) > 20 or int(text) > _MOST:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is too large; expected {_MOST} at most")
    return int(text)


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
