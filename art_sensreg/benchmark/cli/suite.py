"""Command line of the suite: see `python benchmarks/run_art_suite.py --help`."""

from __future__ import annotations

import argparse
import runpy
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser, make_parser, request_of
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.cli.listing import list_names
from art_sensreg.benchmark.engine.suite import open_suite
from art_sensreg.benchmark.results.extra_tables import extra_tables
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.benchmark.results.tables import explanations, summary_table
from art_sensreg.utils.text import describe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite: exit code 0 if done, 1 if a run failed; wrong arguments exit with 2, Ctrl-C with 130."""
    _load_plugin(arguments)
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.list:
        say(list_names())
        return 0
    with ExitStack() as stack:
        try:
            suite = stack.enter_context(open_suite(request_of(given)))
        except (ValueError, TypeError, OSError, argparse.ArgumentTypeError) as error:
            parser.error(str(error))
        count = suite.context.processes.count
        program = ["python"] if count == 1 else ["torchrun", f"--nproc-per-node={count}"]
        words = sys.argv[1:] if arguments is None else arguments
        pages = suite.run(shlex.join([*program, "benchmarks/run_art_suite.py", *words]))
        if pages:
            _print(suite.context.store, pages)
    return 0 if suite.complete else 1


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


def _print(store: ResultStore, pages: list[Path]) -> None:
    """The table, what did not run, and the paths."""
    results, out = store.results, store.out
    say(summary_table(results).as_text())
    for heading, table in extra_tables(results, wide=False):
        say(f"\n{heading}\n{table.as_text()}")
    say(*explanations(results), "\nWrote:")
    say(*(f"  {path}" for path in [out / "results.json", out / "results.csv", *pages]))
    say(f"  {out / 'masks'}{'/*.npz'}, {out / 'checkpoints'}{'/*.safetensors'}")
