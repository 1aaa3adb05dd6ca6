"""Programs of the repository, run in the process of the tests: a new one takes seconds to import torch."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest


def exit_code(monkeypatch: pytest.MonkeyPatch, program: Path, *words: str) -> object:
    """Run a file as `python FILE WORD...` would; what it ends with."""
    monkeypatch.setattr(sys, "argv", [str(program), *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(program), run_name="__main__")
    return ended.value.code
