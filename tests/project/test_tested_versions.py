"""The record of tested versions counts what ran, and refuses a run that did not end."""

import importlib.util

import pytest

from tests.paths import ROOT

spec = importlib.util.spec_from_file_location("tested_versions", ROOT / "benchmarks" / "tested_versions.py")
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)


@pytest.mark.parametrize(
    ("code", "line", "counts"),
    [(0, "5 passed, 2 skipped in 1s", "5 0 0"), (1, "2 failed, 3 passed, 9 errors in 2s", "3 2 9")],
)
def test_what_ran_is_counted(code, line, counts):
    assert list(program.counts_of(code, line).values()) == counts.split()


@pytest.mark.parametrize(("code", "line"), [(2, "1 error in 2s"), (4, ""), (0, ""), (-9, "")])
def test_a_run_that_did_not_end_is_not_recorded(code, line):
    with pytest.raises(ValueError, match="expected a finished run"):
        program.counts_of(code, line)
