"""Command line of the suite: see `python benchmarks/run_art_suite.py --help`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import make_parser, request_of
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.cli.listing import list_names
from art_sensreg.benchmark.cli.plugin import load_plugin
from art_sensreg.benchmark.engine.suite import open_suite
from art_sensreg.benchmark.results.extra_tables import extra_tables
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.benchmark.results.tables import explanations, summary_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite: exit code 0 if done, 1 if a run failed; wrong arguments exit with 2, Ctrl-C with 130."""
    load_plugin(arguments, "run_art_suite.py")
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


def _print(store: ResultStore, pages: list[Path]) -> None:
    """The table, what did not run, and the paths of the files."""
    results, out = store.results, store.out
    say(summary_table(results).as_text())
    for heading, table in extra_tables(results, wide=False):
        say(f"\n{heading}\n{table.as_text()}")
    say(*explanations(results), "\nWrote:")
    say(*(f"  {path}" for path in [out / "results.json", out / "results.csv", *pages]))
    say(f"  {out / 'masks'}{'/*.npz'}, {out / 'checkpoints'}{'/*.safetensors'}")
