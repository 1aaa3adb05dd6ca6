"""
Choose the settings of SR+JR on held-out training images, never on test points.

usage: choose_settings.py --dataset NAME [--data-dir DIR] [--out DIR] [suite options ...]

Runs the suite with --validation once for each candidate below, and writes one table of all to OUT/validation.md. The
values in `art_sensreg/benchmark/settings.py` are the ones chosen from it.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

from art_sensreg.benchmark.cli import main as run_suite
from art_sensreg.benchmark.records import write_text
from art_sensreg.benchmark.tables import Table, summary_table

SR_JR_GRID = [
    {"sigma": sigma, "sr_weight": sr_weight, "jr_weight": jr_weight}
    for sigma, sr_weight, jr_weight in (
        (0.1, 1.0, 0.1),
        (0.2, 1.0, 0.1),
        (0.3, 1.0, 0.1),
        (0.4, 1.0, 0.1),
        (0.3, 0.3, 0.1),
        (0.3, 3.0, 0.1),
        (0.3, 1.0, 0.03),
        (0.3, 1.0, 0.3),
    )
]
JR_GRID = [{"jr_weight": weight} for weight in (0.01, 0.1, 0.3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--out", type=Path, default=None)
    given, rest = parser.parse_known_args()
    out = given.out or Path("results") / f"{Path(given.dataset).stem}-validation"
    header: list[str] = []
    rows: list[list[str]] = []
    for number, (defence, options) in enumerate([("sr+jr", o) for o in SR_JR_GRID] + [("jr", o) for o in JR_GRID]):
        folder = out / f"candidate-{number}"
        sets = [f"--set={defence}.{name}={value}" for name, value in options.items()]
        arguments = [
            "--dataset",
            given.dataset,
            "--validation",
            "--defences",
            defence,
            "--out",
            str(folder),
            "--resume",
        ]
        if run_suite([*arguments, "--quiet", *sets, *rest]):
            sys.exit(f"candidate {options} failed: see {folder}")
        table = summary_table(json.loads((folder / "results.json").read_text()))
        header = ["defence", *SR_JR_GRID[0], *table.header[1:-2]]
        rows += [[row[0], *(f"{options.get(name, '')}" for name in SR_JR_GRID[0]), *row[1:-2]] for row in table.rows]
    command = shlex.join(["python", "benchmarks/choose_settings.py", *sys.argv[1:]])
    text = f"# Candidates on held-out training images\n\n```\n{command}\n```\n\n{Table(header, rows).as_markdown()}\n"
    write_text(out / "validation.md", text)
    print(text)


if __name__ == "__main__":
    main()
