"""The results of one folder or of several as one: runs of the same settings, made together or on different machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from art_sensreg.benchmark.attacks import ordered
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.results.entries import WorstCase
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.utils.stats import share_half_width
from art_sensreg.utils.tables import Table
from art_sensreg.utils.text import one_line

# Runs may differ in these and stand in one table: what was asked for, where the data lay, and the device.
_FREE = ("defences", "attacks", "seeds", "dataset", "device")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder, or a file of results in it, with what it holds."""

    path: Path
    results: Results

    @property
    def folder(self) -> Path:
        """The folder in which the pictures of the run are."""
        return self.path.parent if self.path.is_file() else self.path


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """The same defence and seed at one size in the first source that has it, and in another."""

    defence: str
    seed: int
    other: str
    first: WorstCase
    second: WorstCase

    @property
    def within_error(self) -> bool:
        """Whether they differ by no more than the sampling error of both (95 %), or by one image."""
        one, other = ((case.robust_accuracy, case.n) for case in (self.first, self.second))
        return abs(one[0] - other[0]) <= max(share_half_width(one, other), 1 / min(one[1], other[1])) + 1e-12


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The results of all sources; of what several have, that of the first, and how the others compare."""

    results: Results
    sources: tuple[Source, ...]
    repeats: tuple[Repeat, ...] = ()


def merge_results(folders: Sequence[Path | str]) -> Merged:
    """
    Read the results of one or several folders as one.

    :param folders: Output folders of the suite, or `results.json` files.
    :return: The results. A defence and seed that several have is taken from the first, and compared.
    :raises ValueError: If there is none, one cannot be read, or their settings do not belong into one table.
    """
    paths = list(dict.fromkeys(Path(folder) for folder in folders))
    if not paths:
        raise ValueError("`folders` is empty; expected output folders of the suite")
    sources = tuple(Source(path=path, results=read_results(_file(path))) for path in paths)
    first, *others = sources
    runs = {run.key: run for run in first.results.runs}
    names = source_names(sources)
    repeats: list[Repeat] = []
    for other, name in zip(others, names[1:], strict=True):
        difference = _difference(first.results.config, other.results.config)
        if difference:
            raise ValueError(f"{other.path} cannot stand in one table with {first.path}: {difference}")
        for run in other.results.runs:
            repeats += _repeats(runs[run.key], run, name) if run.key in runs else []
            runs.setdefault(run.key, run)
    return Merged(results=_joined(sources, tuple(runs.values())), sources=sources, repeats=tuple(repeats))


def _file(path: Path) -> Path:
    return path / "results.json" if path.is_dir() else path


def _difference(first: SuiteSettings, other: SuiteSettings) -> str | None:
    ours, theirs = first.comparable(other), other.comparable(first)
    for name in {**ours, **theirs}:  # some are stored only if they are used
        if name not in _FREE and theirs.get(name) != ours.get(name):
            return f"`{name}` is {theirs.get(name)!r} there and {ours.get(name)!r} here"
    return None


def source_names(sources: Sequence[Source]) -> list[str]:
    """What each source is called: the end of its path, with its machine where that differs from the first's."""
    machines = [machine_text(source.results.environment) for source in sources]
    return [
        source.path.name + (f" ({machine})" if machine != machines[0] else "")
        for source, machine in zip(sources, machines, strict=True)
    ]


def machine_text(environment: Mapping[str, Any]) -> str:
    """The machine of a run, as far as the file tells."""
    parts = [environment.get(name) for name in ("processor", "device", "instructions")]
    torch = environment.get("torch")
    words = [str(part) for part in parts if part is not None] + ([f"torch {torch}"] if torch is not None else [])
    return one_line(", ".join(words)) or "unknown machine"


def repeats_table(merged: Merged) -> Table | None:
    """What several sources have, side by side; None if there is nothing."""
    rows = []
    for repeat in merged.repeats:
        shares = [100 * case.robust_accuracy for case in (repeat.first, repeat.second)]
        run = f"{repeat.defence} (seed {repeat.seed}), {repeat.first.norm} {repeat.first.eps:.4g}"
        verdict = "within the sampling error" if repeat.within_error else "NOT within the sampling error"
        numbers = [f"{shares[0]:.1f}", f"{shares[1]:.1f}", f"{shares[1] - shares[0]:+.1f}"]
        rows.append([run, *numbers, repeat.other, verdict])
    words = ("again in", "verdict")
    return Table(["defence", "first %", "again %", "difference", *words], rows, words=words) if rows else None


def repeats_line(merged: Merged) -> str:
    """How many of the repeated measurements agree."""
    agreeing = sum(repeat.within_error for repeat in merged.repeats)
    return (
        f"{agreeing} of {len(merged.repeats)} results that were measured again agree within the sampling error (95 %)."
    )


def _repeats(first: RunRecord, second: RunRecord, other: str) -> list[Repeat]:
    cases = {case.threat: case for case in second.worst_case}
    return [
        Repeat(defence=first.defence, seed=first.seed, other=other, first=case, second=cases[case.threat])
        for case in first.worst_case
        if case.threat in cases
    ]


def _joined(sources: Sequence[Source], runs: tuple[RunRecord, ...]) -> Results:
    parts = [source.results for source in sources]
    configs = [part.config for part in parts]
    names = tuple(dict.fromkeys(name for config in configs for name in config.defences))
    attacks = tuple(ordered(name for config in configs for name in config.attacks))
    lines = [line for part in parts for line in part.left_out]
    for source in sources:
        missing = [name for name in attacks if name not in source.results.config.attacks]
        if missing:
            lines.append(f"{source.path.name}: without {', '.join(missing)}: its worst cases are over fewer attacks")
    options = {name: chosen for config in reversed(configs) for name, chosen in config.options.items()}
    seeds = max(config.seeds for config in configs)
    config = replace(configs[0], defences=names, attacks=attacks, seeds=seeds, options=options)
    commands = tuple(dict.fromkeys(command for part in parts for command in part.commands))
    placed = sorted(runs, key=lambda run: (run.seed, names.index(run.defence) if run.defence in names else len(names)))
    return Results(
        config=config,
        environment=parts[0].environment,
        runs=tuple(placed) if len(parts) > 1 else runs,
        left_out=tuple(dict.fromkeys(lines)),
        commands=commands,
    )
