"""What the command lines have in common: errors of one line, help with examples, and the values of arguments."""

from __future__ import annotations

import argparse
import itertools
import re
import textwrap
from pathlib import Path
from typing import Any, NoReturn

from art_sensreg.attacks.base.sizes import parse_size
from art_sensreg.benchmark.config.networks import check_network_name
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


def program_parser(prog: str, description: str, examples: str, usage: str = "[OPTION...]") -> OneLineParser:
    """The parser of a program, whose help ends with examples of commands, one a line."""
    return OneLineParser(
        prog=prog,
        usage=f"{prog} {usage}",
        description=textwrap.fill(" ".join(description.split()), 98),
        epilog=f"examples:{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def command_words(prog: str, processes: int = 1) -> list[str]:
    """
    How reports begin the command of a program: `art-sensreg`, or a script of benchmarks/.

    Example:
    >>> from art_sensreg.benchmark.cli.arguments import command_words
    >>> command_words("art-sensreg bench"), command_words("audit.py")
    (['art-sensreg', 'bench'], ['python', 'benchmarks/audit.py'])
    """
    words = prog.split() if prog.startswith("art-sensreg") else ["python", f"benchmarks/{prog}"]
    if processes == 1:
        return words
    rest = ["-m", "art_sensreg", *words[1:]] if words[0] != "python" else words[1:]
    return ["torchrun", f"--nproc-per-node={processes}", *rest]


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


def network_name(text: str) -> str:
    """Check the name of a network, for argparse."""
    try:
        return check_network_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
