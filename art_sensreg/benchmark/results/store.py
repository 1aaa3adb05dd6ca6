"""The output folder of a run: `results.json` (the contract), `results.csv`, the masks of its attacks."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from art_sensreg import __version__
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.results.entries import AttackKey, AttackRecord
from art_sensreg.benchmark.results.masks import has_mask, write_mask
from art_sensreg.benchmark.results.reading import check_run_folder
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.benchmark.results.writing import results_csv, results_json, write_text
from art_sensreg.utils.files import usable_folder
from art_sensreg.utils.text import escape_markdown, one_line


def environment(device: str) -> dict[str, Any]:
    """Versions and machine of a run."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "art": version("adversarial-robustness-toolbox"),
        "art_sensreg": __version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def environment_line(found: Mapping[str, Any]) -> str:
    """Versions and machine as a line of Markdown, which ends every stored table."""
    return escape_markdown(f"Environment: {', '.join(f'{name} {value}' for name, value in found.items())}.")


def _processor() -> str:
    """What the system calls its processor, as far as it tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return one_line(names[0] if names else platform.processor() or "unknown")


class ResultStore:
    """
    The results of a run, and its output folder; saved whole whenever a record is put.

    :param out: Folder.
    :param settings: The settings.
    :param previous: Results of the run that is resumed, or None.
    :param writes: Whether this process writes the files: of several, only the first does.
    :raises OSError: If nothing can be written into the folder.
    :raises ValueError: If a link or a pipe lies where a file would be written.
    """

    def __init__(
        self, out: Path, settings: SuiteSettings, previous: Results | None = None, writes: bool = True
    ) -> None:
        self.out, self.writes = out, writes
        # In a process that must not write the results: where records go too.
        self.deliver: Callable[[RunRecord], None] | None = None
        if writes:
            check_run_folder(out)
            usable_folder("--out", out)
            for folder in ("masks", "checkpoints"):
                (out / folder).mkdir(exist_ok=True)
        runs, commands = (previous.runs, previous.commands) if previous else ((), ())
        machine, config = environment(settings.device), settings.beside(previous.config) if previous else settings
        self.results = Results(config=config, environment=machine, runs=runs, commands=commands)

    def put(self, run: RunRecord) -> None:
        """Store a record in the place of the former one, and save."""
        self.results = self.results.with_run(run)
        if self.deliver is not None:
            self.deliver(run)
        else:
            self.save()

    def leave_out(self, *lines: str) -> None:
        """Note what was asked for and not done."""
        self.results = replace(self.results, left_out=self.results.left_out + lines)

    def note_command(self, command: str) -> None:
        """Note the command of this run, behind those that it resumes."""
        if command and command not in self.results.commands:
            self.results = replace(self.results, commands=(*self.results.commands, command))

    def save(self) -> None:
        """Write `results.json` and `results.csv`, each aside and renamed."""
        if self.writes:
            write_text(self.out / "results.json", results_json(self.results))
            write_text(self.out / "results.csv", results_csv(self.results))

    def checkpoint(self, defence: str, seed: int) -> Path:
        """Where the trained weights of a run are."""
        return self.out / "checkpoints" / f"{defence}-seed{seed}.safetensors"

    def write_mask(self, name: str, robust: np.ndarray, attacked: np.ndarray, seen: np.ndarray | None = None) -> str:
        """Store the outcome of an attack, if this process writes; returns the name."""
        if self.writes:
            write_mask(self.out, name, robust, attacked, seen)
        return name

    def finished(self, run: RunRecord, key: AttackKey, n: int) -> AttackRecord | None:
        """The record of an attack, if the outcome of its `n` images can be read."""
        found = run.attack(key)
        return found if found is not None and has_mask(self.out, found.mask, n) else None
