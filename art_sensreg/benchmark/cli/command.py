"""The command `art-sensreg`: one program with a subcommand for each thing that people do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from art_sensreg import __version__
from art_sensreg.benchmark.cli.arguments import OneLineParser

NAME = "art-sensreg"
# What each does, and the module whose `main` it is: imported when it is called.
_COMMANDS = {
    "bench": ("train defences, attack each trained model, print one table", "suite"),
    "audit": ("check whether attacks on a model can be trusted", "audit"),
    "list": ("show all defences, attacks and checks, or one with its options and paper", "listing"),
    "report": ("rebuild the report of finished runs, merged if there are several", "report"),
    "step-cost": ("time the training steps of each method against a plain one", "step_cost"),
}
_EXAMPLES = """
examples:
  art-sensreg bench --budget smoke                the main defences on the digits, in minutes
  art-sensreg bench --model my_net.py:build --data my_images/ --eps 8/255
  art-sensreg audit --model my_net.py:build --weights my_net.pt --data my_images.npz --eps 8/255
  art-sensreg audit --defence sr+jr               train it on the digits, then audit it
  art-sensreg report results/first results/second one page of two runs
  art-sensreg list sr+jr                          one defence: its paper, its claim, its options

`art-sensreg COMMAND --help` shows the options of a command.
"""


def make_command_parser() -> argparse.ArgumentParser:
    """The parser of the subcommand's name."""
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, (what, _) in _COMMANDS.items()]
    parser = OneLineParser(
        prog=NAME,
        usage=f"{NAME} COMMAND [OPTION...]",
        description="Defend PyTorch classifiers cheaply, and find out what a defence is worth.\n\ncommands:\n"
        + "\n".join(lines),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=tuple(_COMMANDS), help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run a subcommand.

    :param arguments: Command line; that of the process if None.
    :return: Its exit code; wrong arguments exit with 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_command_parser()
    if not words:
        parser.print_help()
        return 0
    name = parser.parse_args(words[:1]).command
    program = import_module(f"art_sensreg.benchmark.cli.{_COMMANDS[name][1]}")
    code: int = program.main(words[1:], f"{NAME} {name}")
    return code
