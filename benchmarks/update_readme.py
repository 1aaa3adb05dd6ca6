"""
Copy measured figures into the README and docs/*.md, so that none is entered by hand.

usage: update_readme.py [--check]

Each block `<!-- begin: NAME -->` ... `<!-- end: NAME -->` becomes the first table of docs/results/NAME.md;
`NAME#HEADING` means the first one under the heading that begins so, with `_` for spaces. The plot
docs/results/digits-bench-cost.png is drawn from digits-bench.json.
With --check nothing is written; the exit code is 1 if a page is out of date.
"""

import re
import sys
from pathlib import Path

from art_sensreg.benchmark.results.plots import plot_cost
from art_sensreg.benchmark.results.reading import read_results

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def first_table(text: str, heading: str = "") -> str:
    """The first table; the first one under the heading that begins with these words, if there are any."""
    under = text.partition(f"\n## {heading}")[2].partition("\n## ")[0] if heading else text
    match = re.search(r"(?:^\|.*\|\n)+", under, re.MULTILINE)
    if match is None:
        raise ValueError(f"no table under {heading!r}" if heading else "no table")
    return match.group()


def updated(readme: str) -> str:
    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        page, _, heading = name.partition("#")
        table = first_table((RESULTS / f"{page}.md").read_text(), heading.replace("_", " "))
        return f"<!-- begin: {name} -->\n{table}<!-- end: {name} -->"

    return re.sub(r"<!-- begin: (\S+) -->\n.*?<!-- end: \1 -->", block, readme, flags=re.DOTALL)


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        print(
            f"update_readme.py: error: unexpected {' '.join(sys.argv[1:])!r}; expected nothing or --check",
            file=sys.stderr,
        )
        sys.exit(2)
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    outdated = [page for page in pages if updated(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(page.name for page in outdated)}" if outdated else 0)
    for page in outdated:
        page.write_text(updated(page.read_text()))
    plot_cost(read_results(RESULTS / "digits-bench.json"), RESULTS / "digits-bench-cost.png", norm="linf", eps=0.2)
