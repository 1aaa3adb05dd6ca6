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

ROOT = Path(__file__).resolve().parents[1]
STORED = ROOT / "docs" / "results" / "versions.json"
PACKAGES = ("torch", "adversarial-robustness-toolbox", "numpy", "scikit-learn")


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
    columns = ["python", *PACKAGES, "passed", "failed"]
    lines = [columns, ["---"] * len(columns), *([run[column] for column in columns] for run in runs)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# Tested versions\n\nBy `make test-versions ENVIRONMENT=... RECORD=1`, the last run of each.\n\n{table}\n"


def record(last_line: str) -> None:
    """Replace the previous run with the same Python and torch by this one."""
    counts = dict(re.findall(r"(\d+) (passed|failed)", last_line))
    counts = {name: number for number, name in counts.items()}
    run = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    run |= {name: counts.get(name, "0") for name in ("passed", "failed")}
    stored = json.loads(STORED.read_text()) if STORED.exists() else []
    others = [old for old in stored if (old["python"], old["torch"]) != (run["python"], run["torch"])]
    runs = sorted([*others, run], key=lambda run: (run["python"], run["torch"]))
    STORED.write_text(json.dumps(runs, indent=1) + "\n")
    STORED.with_suffix(".md").write_text(page(runs))


if __name__ == "__main__":
    code, last_line = run_tests([word for word in sys.argv[1:] if word != "--record"])
    if "--record" in sys.argv:
        record(last_line)
    sys.exit(code)
