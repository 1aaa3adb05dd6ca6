"""
Run the tests in this environment, and record the versions they passed with: docs/results/versions.json, versions.md.

usage: tested_versions.py [--record] [PYTEST ARGUMENT ...]
"""

import json
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from art_sensreg.benchmark.cli.console import run_program
from art_sensreg.utils.files import atomic_write
from art_sensreg.utils.tables import Table

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "docs" / "results" / "versions.json"
PACKAGES = ("torch", "adversarial-robustness-toolbox", "numpy", "scikit-learn")
COUNTS = ("passed", "failed", "errors")


def run_tests(arguments: list[str]) -> tuple[int, str]:
    """The exit code of pytest and the last line that it prints."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-n", "2", "--dist", "loadfile", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        line = ""
        for line in tests.stdout or ():
            print(line, end="", flush=True)
    return tests.returncode, line


def page(runs: list[dict[str, str]]) -> str:
    """The runs as a page."""
    columns = ["python", *PACKAGES, *COUNTS]
    table = Table(columns, [[run[column] for column in columns] for run in runs]).as_markdown()
    return f"# Tested versions\n\nBy `make test-versions ENVIRONMENT=... RECORD=1`, the last run of each.\n\n{table}\n"


def counts_of(code: int, last_line: str) -> dict[str, str]:
    """
    How many tests passed, failed and could not be run, from pytest's last line.

    ValueError if pytest did not get to its end (exit codes 0 and 1): no failure was seen, and none was looked for.
    """
    found = {name: number for number, name in re.findall(r"(\d+) (passed|failed|error)", last_line)}
    if code not in (0, 1) or not found:
        raise ValueError(f"pytest ended with exit code {code} and {last_line.strip()!r}; expected a finished run")
    return {"passed": found.get("passed", "0"), "failed": found.get("failed", "0"), "errors": found.get("error", "0")}


def record(counts: dict[str, str]) -> None:
    """Replace the previous run with the same Python and torch by this one."""
    run = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}, **counts}
    stored = json.loads(STORED.read_text()) if STORED.exists() else []
    others = [old for old in stored if (old["python"], old["torch"]) != (run["python"], run["torch"])]
    runs = sorted([*others, run], key=lambda run: (run["python"], run["torch"]))
    atomic_write(STORED, (json.dumps(runs, indent=1) + "\n").encode())
    atomic_write(STORED.with_suffix(".md"), page(runs).encode())


def main() -> int:
    code, last_line = run_tests([word for word in sys.argv[1:] if word != "--record"])
    if "--record" in sys.argv:
        record(counts_of(code, last_line))
    return code


if __name__ == "__main__":
    sys.exit(run_program(main))
