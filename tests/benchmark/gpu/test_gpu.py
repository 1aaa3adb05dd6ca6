"""`benchmarks/gpu.py` and the small programs beside it: wrong arguments."""

import pytest
import torch

from tests.paths import ROOT
from tests.support.programs import exit_code


def errors(monkeypatch, capsys, program: str, *words: str) -> list[str]:
    """What the program writes to stderr before it ends with 2."""
    assert exit_code(monkeypatch, ROOT / "benchmarks" / program, *words) == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(monkeypatch, capsys):
    assert "torch sees no GPU here" in errors(monkeypatch, capsys, "gpu.py")[-1]


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
def test_wrong_arguments_of_the_small_programs(monkeypatch, capsys, program, words, message):
    """The last three would have written their pages."""
    assert errors(monkeypatch, capsys, program, *words) == [f"{program}: error: {message}"]
