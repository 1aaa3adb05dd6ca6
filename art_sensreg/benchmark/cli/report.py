"""`art-sensreg report`: the report of finished runs from their results alone, merged if there are several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import known_names, program_parser
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.cli.plugin import load_plugin
from art_sensreg.benchmark.results.export import EXPORTS, write_exports
from art_sensreg.benchmark.results.merge import merge_results
from art_sensreg.benchmark.results.report import write_report
from art_sensreg.benchmark.results.tables import explanations, summary_table

_EXAMPLES = """
  art-sensreg report results/mine                              its page again
  art-sensreg report results/first results/second --out results/both
  art-sensreg report results/mine --export latex,robustbench   for a paper, and for a leaderboard
"""


def main(arguments: Sequence[str] | None = None, prog: str = "art-sensreg report") -> int:
    """Write the report; the exit code is 0, or 2 if the results cannot be used."""
    load_plugin(arguments, prog)
    description = "Rebuild the report of runs of the suite from their stored results."
    parser = program_parser(prog, description, _EXAMPLES, "DIR [DIR...] [OPTION...]")
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="output folder of `bench`, or results.json"
    )
    add = parser.add_argument_group("the run and its results").add_argument
    add("--out", type=Path, metavar="DIR", help="default: DIR itself, or results/report if there are several")
    add("--export", type=known_names(dict.fromkeys(EXPORTS)), metavar="FORM,...", help=f"also {', '.join(EXPORTS)}")
    add("--plugin", type=Path, metavar="FILE", help="Python file that registers the defences of the runs")
    given = parser.parse_args(arguments)
    folders: list[Path] = given.folders
    alone = folders[0] if folders[0].is_dir() else folders[0].parent
    out: Path = given.out or (alone if len(folders) == 1 else Path("results/report"))
    try:
        results = merge_results(folders).results
        pages = write_report(folders, out)
        if given.export:
            pages += write_exports(folders, out, given.export)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    say(summary_table(results).as_text(), *explanations(results), "\nWrote:", *(f"  {page}" for page in pages))
    return 0
