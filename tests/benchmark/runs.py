"""Small runs of the suite, for the tests that look at what it leaves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from art_sensreg.benchmark.cli.suite import main
from art_sensreg.benchmark.defences.registry import DEFENCES
from tests.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "run_art_suite.py"
SMALL = ["--train-size", "300", "--test-size", "30", "--epochs", "2", "--model", "mlp", "--quiet"]


def run(out, *arguments) -> int:
    """The exit code of a run of the command line."""
    return main([*SMALL, "--out", str(out), *arguments])


def results(out):
    """What `results.json` holds."""
    return json.loads((Path(out) / "results.json").read_text())


def masks(out, attack):
    """The outcome of an attack image by image."""
    with np.load(Path(out) / attack["mask"]) as file:
        return {name: file[name] for name in ("robust", "attacked", "seen")}


def replaced(monkeypatch, name, **changes) -> None:
    """Change a registered defence."""
    monkeypatch.setitem(DEFENCES, name, replace(DEFENCES[name], **changes))


def raising(error: BaseException):
    """A function that raises, whatever it is given."""

    def raises(*args, **kwargs):
        raise error

    return raises
