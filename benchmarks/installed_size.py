"""
Write docs/results/installed-size.md: the disk space of the package and its dependencies in this environment.

usage: installed_size.py
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser
from art_sensreg.benchmark.cli.console import run_program, say
from art_sensreg.utils.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]


def needed(name: str, extra: str, found: set[str]) -> set[str]:
    """Names of all installed distributions that `name[extra]` needs, itself included."""
    from packaging.requirements import Requirement

    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return found
    try:
        dist = distribution(name)
    except PackageNotFoundError:
        return found
    found.add(key)
    for line in dist.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            needed(requirement.name, "", found)
    return found


def size(names: set[str]) -> int:
    return sum(
        Path(path).stat().st_size
        for name in names
        for path in (file.locate() for file in distribution(name).files or [])
        if Path(path).is_file()
    )


def main() -> None:
    OneLineParser(prog="installed_size.py", description=__doc__).parse_args()
    rows = []
    for label, extra in (("pip install .", ""), ("pip install '.[bench]'", "bench")):
        names = needed("art_sensreg", extra, set())
        total, torch = size(names), size({"torch"})
        rows.append(f"| `{label}` | {len(names)} | {total / 1e6:.0f} MB | {torch / 1e6:.0f} MB |")
    text = (
        "# Installed size\n\n```\npython benchmarks/installed_size.py\n```\n\n"
        f"| torch {version('torch')} | packages | size | of which torch |\n| --- | ---: | ---: | ---: |\n"
        + "\n".join(rows)
        + "\n"
    )
    target = ROOT / "docs" / "results" / "installed-size.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, text.encode())
    say(text)


if __name__ == "__main__":
    sys.exit(run_program(main))
