"""
Compare two defences of one run of the suite image by image: `compare_defences.py RUN FIRST SECOND`.

Both were attacked in the same way on the same images with the same training seeds: the difference is taken per image,
so that the interval is that of the difference and not of two separate shares. Writes comparison.md into RUN.
"""

import shlex
import sys
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.store import environment_line
from art_sensreg.benchmark.results.writing import write_text
from art_sensreg.benchmark.studies.compare_defences import comparison_table
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.text import escape_markdown, fenced


def main() -> None:
    parser = OneLineParser(prog="compare_defences.py", description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of benchmarks/run_art_suite.py")
    parser.add_argument("first")
    parser.add_argument("second")
    given = parser.parse_args()
    if not (given.run / "results.json").is_file():
        parser.error(f"`run`: {given.run} holds no `results.json` of a run of the suite")
    try:
        results = read_results(given.run / "results.json")
        usable_folder("run", given.run)
        table = comparison_table(results, given.run, given.first, given.second)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    command = shlex.join(["python", "benchmarks/compare_defences.py", *sys.argv[1:]])
    page, title = given.run / "comparison.md", escape_markdown(f"{given.second} against {given.first}")
    machine = environment_line(results.environment)
    write_text(page, f"# {title}\n\n{fenced(command)}\n\n{table.as_markdown()}\n\n{machine}\n")
    say(table.as_text(), f"\nWrote {page}")


if __name__ == "__main__":
    sys.exit(run_program(main))
