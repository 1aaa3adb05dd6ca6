"""
Put measured figures into the README, so that none is typed in by hand.

usage: update_readme.py [--check]

Each block `<!-- begin: NAME -->` ... `<!-- end: NAME -->` becomes the first table of docs/results/NAME.md.
With --check nothing is written, and a README that is out of date is exit code 1.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def first_table(text: str) -> str:
    match = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    if match is None:
        raise ValueError("no table")
    return match.group()


def updated(readme: str) -> str:
    def block(match: re.Match[str]) -> str:
        name = match.group(1)
        table = first_table((ROOT / "docs" / "results" / f"{name}.md").read_text())
        return f"<!-- begin: {name} -->\n{table}<!-- end: {name} -->"

    return re.sub(r"<!-- begin: (\S+) -->\n.*?<!-- end: \1 -->", block, readme, flags=re.DOTALL)


if __name__ == "__main__":
    path = ROOT / "README.md"
    new = updated(path.read_text())
    if "--check" in sys.argv:
        sys.exit(new != path.read_text())
    path.write_text(new)
