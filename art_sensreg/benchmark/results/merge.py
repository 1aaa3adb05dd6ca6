"""The results of one folder or of several as one: runs of the same settings, made together or on different machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from art_sensreg.benchmark.attacks import ordered
from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.results.entries import WorstCase
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.utils.stats import share_half_width

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
    """The same defence and seed at one size in two sources."""

    defence: str
    seed: int
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
    repeats: list[Repeat] = []
    for other in others:
        difference = _difference(first.results.config, other.results.config)
        if difference:
            raise ValueError(f"{other.path} cannot stand in one table with {first.path}: {difference}")
        for run in other.results.runs:
            repeats += _repeats(runs[run.key], run) if run.key in runs else []
            runs.setdefault(run.key, run)
    return Merged(results=_joined(sources, tuple(runs.values())), sources=sources, repeats=tuple(repeats))


def _file(path: Path) -> Path:
    return path / "results.json" if path.is_dir() else path


def _difference(first: SuiteSettings, other: SuiteSettings) -> str | None:
    ours, theirs = (json.loads(json.dumps(settings.to_dict())) for settings in (first, other))
    for name in {**ours, **theirs}:  # some are stored only if they are used
        if name not in _FREE and theirs.get(name) != ours.get(name):
            return f"`{name}` is {theirs.get(name)!r} there and {ours.get(name)!r} here"
    return None


def _repeats(first: RunRecord, second: RunRecord) -> list[Repeat]:
    cases = {case.threat: case for case in second.worst_case}
    return [
        Repeat(defence=first.defence, seed=first.seed, first=case, second=cases[case.threat])
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
    config = replace(configs[0], defences=names, attacks=attacks, seeds=max(config.seeds for config in configs))
    commands = tuple(dict.fromkeys(command for part in parts for command in part.commands))
    placed = sorted(runs, key=lambda run: (run.seed, names.index(run.defence) if run.defence in names else len(names)))
    return Results(
        config=config,
        environment=parts[0].environment,
        runs=tuple(placed) if len(parts) > 1 else runs,
        left_out=tuple(dict.fromkeys(lines)),
        commands=commands,
    )
