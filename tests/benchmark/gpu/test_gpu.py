"""`benchmarks/gpu.py` and the small programs beside it: wrong arguments."""

import os
import subprocess
import sys

import pytest
import torch

from tests.paths import ROOT


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu():
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=where)
    assert done.returncode == 2
    assert "torch sees no GPU here" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("program", "words", "message"),
    [
        ("gpu.py", ["--seconds", "nan"], "argument --seconds: 'nan' is not a number above 0"),
        ("gpu.py", ["--secondss", "3"], "unrecognized arguments: --secondss 3"),
        ("update_readme.py", ["--chek"], "unexpected '--chek'; expected nothing or --check"),
        ("installed_size.py", ["--list"], "unrecognized arguments: --list."),
        ("freed_memory.py", ["7"], "unrecognized arguments: 7"),
    ],
)
def test_wrong_arguments_of_the_small_programs(program, words, message):
    """The last three would have written their pages."""
    command = [sys.executable, str(ROOT / "benchmarks" / program), *words]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=where)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"{program}: error: {message}"]
