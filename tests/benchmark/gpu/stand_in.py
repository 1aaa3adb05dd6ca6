"""Stages that fail, hang or answer, without a GPU."""

import sys

from art_sensreg.benchmark.gpu import run as gpu_run
from art_sensreg.benchmark.gpu.run import MARK, run_all
from art_sensreg.benchmark.gpu.stages import STAGES

PROGRAM = f"""
import json, sys, time
from tests.paths import ROOT
name = sys.argv[-1]
if name == "waits":
    raise RuntimeError("no such kernel")
if name == "agreement":
    time.sleep(60)
print("warming up")
if name != "resume":
    print({MARK!r} + json.dumps([{{"what": name, "waits": 1}}]))
"""
TESTS = "print('PASSED tests/a.py::b'); print('FAILED tests/a.py::c - no'); raise SystemExit(1)"


def stages(monkeypatch, seconds=60.0):
    """What `run_all` says of them."""
    limits = {name: (function, 1 if name == "agreement" else 20) for name, (function, _) in STAGES.items()}
    monkeypatch.setattr(gpu_run, "STAGES", limits)
    return run_all([sys.executable, "-c", PROGRAM], [sys.executable, "-c", TESTS], seconds, lambda text: None)
