"""`gpu.json` and `gpu.md`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from art_sensreg.benchmark.gpu.records import GpuResults, Row
from art_sensreg.benchmark.results.writing import json_text, write_text
from art_sensreg.utils.tables import Table

TITLES = {
    "tests": "Tests marked `gpu`",
    "waits": "Waits of the host",
    "agreement": "Agreement with the CPU",
    "resume": "Resumed runs",
    "precision": "Lower precision",
    "step_cost": "Step cost and memory",
}
NOTES = {
    "waits": "Most waits of the host for the device in a training step (from an epoch's second step on). How often an "
    "attack waits does not depend on its number of steps.",
    "agreement": "Largest difference from the CPU's numbers, divided by the largest of them; and results of the same "
    "training on both devices, which draw different noise.",
    "resume": "Weights of a run against those of one that was not stopped, with cuDNN's deterministic algorithms.",
    "precision": "Error of `E ||z(x + s d) - z(x)||^2 / s^2` against float32, by the size `s` of noise or of a whole "
    "step, which a carried adversary at its border no longer takes. Below 0.3 for noise and 0.03 for an adversary the "
    "pass of the penalties is not in half precision, below 0.01 not in TF32.",
    "step_cost": "Time of a step, its ratio to that of a plain PyTorch loop in the same process, and the memory that "
    "an epoch takes beyond what was there before it. Where no column has what `fit` does once, that is in these "
    "times, which are of epochs of 20 steps: in long ones a step takes less.",
}


def write_gpu(data: GpuResults, out: Path) -> list[Path]:
    """Write both files."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "gpu.json", out / "gpu.md"]
    write_text(paths[0], json_text(data))
    write_text(paths[1], page(data))
    return paths


def page(data: GpuResults) -> str:
    """The page."""
    machine = data.environment
    lines = ["# On a GPU" if not data.emulated else "# On an emulated device, not on a GPU", ""]
    if data.emulated:
        lines += [
            "**No GPU was available: these numbers come from a device emulated in the CPU's memory** (tests/device) "
            "and of much smaller problems. They show that every stage runs and that the numbers agree with the CPU's; "
            "times, memory and the effect of TF32 say nothing about a GPU. Run `make gpu` on a machine that has one.",
            "",
        ]
    lines += [
        f"Device: {machine['device']}; torch {machine['torch']}; {data.seconds:.0f} seconds; `{data.command}`.",
        "",
    ]
    for stage in data.stages:
        lines += [f"## {TITLES[stage.stage]}", ""]
        if stage.status != "ok":
            lines += [f"**{stage.status}**: {stage.reason}", ""]
        if stage.stage == "tests":
            lines += [*_tests(stage.records), ""]
        elif stage.records:
            lines += [NOTES[stage.stage], "", *_tables(stage.records), ""]
    return "\n".join(lines).rstrip() + "\n"


def _tests(records: Sequence[Row]) -> list[str]:
    outcomes = [record["outcome"] for record in records]
    counts = ", ".join(f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes)) or "none was run"
    bad = [record for record in records if record["outcome"] in ("failed", "error")]
    return [f"{counts[0].upper()}{counts[1:]}.", *(f"- {record['outcome']}: `{record['test']}`" for record in bad)]


def _tables(records: Sequence[Row]) -> list[str]:
    """One table for each kind of record."""
    kinds: dict[tuple[str, ...], list[Row]] = {}
    for record in records:
        kinds.setdefault(tuple(record), []).append(record)
    tables = []
    for header, rows in kinds.items():
        names = [name.replace("_", " ") for name in header]
        tables += [Table(names, [[_cell(row[name]) for name in header] for row in rows]).as_markdown(), ""]
    return tables[:-1]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return str(value)
