"""Command line of the suite: see `art-sensreg bench --help`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import command_words
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.cli.listing import list_names, list_some
from art_sensreg.benchmark.cli.plugin import load_plugin
from art_sensreg.benchmark.cli.suite_parser import make_parser, request_of
from art_sensreg.benchmark.engine.suite import open_suite
from art_sensreg.benchmark.results.export import write_exports
from art_sensreg.benchmark.results.extra_tables import extra_tables
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.benchmark.results.tables import explanations, summary_table


def main(arguments: Sequence[str] | None = None, prog: str = "run_art_suite.py") -> int:
    """Run the suite: exit code 0 if done, 1 if a run failed; wrong arguments exit with 2, Ctrl-C with 130."""
    load_plugin(arguments, prog)
    parser = make_parser(prog)
    given = parser.parse_args(arguments)
    if given.list is not None:
        try:
            say(list_some(given.list) if given.list else list_names())
        except ValueError as error:
            parser.error(f"argument --list: {error}")
        return 0
    with ExitStack() as stack:
        try:
            suite = stack.enter_context(open_suite(request_of(given)))
        except (ValueError, TypeError, OSError, argparse.ArgumentTypeError) as error:
            parser.error(str(error))
        count = suite.context.processes.count
        words = sys.argv[1:] if arguments is None else arguments
        pages = suite.run(shlex.join([*command_words(prog, count), *words]))
        if pages:
            if given.export:
                pages += write_exports([suite.context.store.out], suite.context.store.out, given.export)
            _print(suite.context.store, pages)
    return 0 if suite.complete else 1


def _print(store: ResultStore, pages: list[Path]) -> None:
    """The table, what did not run, and the paths of the files."""
    results, out = store.results, store.out
    say(summary_table(results).as_text())
    for heading, table in extra_tables(results, wide=False):
        say(f"\n{heading}\n{table.as_text()}")
    say(*explanations(results), "\nWrote:")
    say(*(f"  {path}" for path in [out / "results.json", out / "results.csv", *pages]))
    say(f"  {out / 'masks'}{'/*.npz'}, {out / 'checkpoints'}{'/*.safetensors'}")
