"""Time the variants of `art-sensreg step-cost` in one process, interleaved, each paired with plain PyTorch loops."""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import torch

from art_sensreg.benchmark.defences.train_spec import NotApplicable
from art_sensreg.benchmark.results.store import environment
from art_sensreg.benchmark.step_cost.loops import MODELS, Bench, Run, SetUp, epoch_loop, make_bench
from art_sensreg.benchmark.step_cost.memory import cuda_peak, memory_in_child
from art_sensreg.benchmark.step_cost.records import (
    MemoryRise,
    ModelRecord,
    StepCostResults,
    VariantRecord,
    summarised,
)
from art_sensreg.benchmark.step_cost.variants import UNITS, VARIANTS, Variant

EPOCH_SECONDS = 0.4  # of the plain loop: what `fit` does at the end of an epoch must not count for much
CALLS_SECONDS = 0.03  # `predict` and `gradient` are timed together for so long
LEAST_STEPS, MOST_STEPS = 2, 256

Progress = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class StepCostSettings:
    """
    Settings of a run.

    :param models: Names of models.
    :param variants: Names of variants.
    :param device: `cpu`, `cuda`, or `cuda:` and a number.
    :param batch_size: Examples in a step.
    :param repeats: Paired repeats of a variant.
    :param slow_repeats: Paired repeats of those that are slow.
    :param epoch_steps: Steps of a timed epoch; None: what takes the plain loop about `EPOCH_SECONDS`.
    :param precision: Name of the number format that a step is computed in.
    :param threads: Threads of torch, for the processes that measure memory; this one's are set by the caller.
    :param memory: Whether peak memory is measured.
    """

    models: tuple[str, ...] = tuple(MODELS)
    variants: tuple[str, ...] = tuple(VARIANTS)
    device: str = "cpu"
    batch_size: int = 128
    repeats: int = 9
    slow_repeats: int = 3
    epoch_steps: int | None = None
    precision: str = "float32"
    threads: int = 1
    memory: bool = True


def run_step_cost(
    settings: StepCostSettings, command: str = "", progress: Progress = lambda text: None
) -> StepCostResults:
    """
    Time all variants of all models.

    :param settings: The settings.
    :param command: The command line, for the page.
    :param progress: Function that is told what is being done.
    :return: What was measured.
    """
    device = torch.device(settings.device)
    start = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where ART's classifiers go
    models = [_time_model(settings, name, progress) for name in settings.models]
    if settings.memory and device.type == "cpu":
        models = [_with_memory(settings, model, progress) for model in models]
    machine = {**environment(device.type), "device": _device_name(device)}
    minutes = (time.perf_counter() - start) / 60
    return StepCostResults(
        config=asdict(settings), environment=machine, minutes=minutes, models=tuple(models), command=command
    )


def _with_memory(settings: StepCostSettings, model: ModelRecord, progress: Progress) -> ModelRecord:
    """The record of a model with the memory of its variants, on the CPU."""
    records = []
    for timed in model.variants:
        if timed.status == "ok" and VARIANTS[timed.variant].memory:
            progress(f"{model.model}: memory of {timed.variant}")
            try:
                rises = memory_in_child(
                    timed.variant, model.model, settings.batch_size, settings.precision, settings.threads
                )
                timed = replace(timed, memory=rises)
            except RuntimeError as error:
                timed = replace(timed, reason=f"memory not measured: {without_folders(str(error))}")
        records.append(timed)
    return replace(model, variants=tuple(records))


def without_folders(text: str) -> str:
    """
    A message as one line, without the folders of this machine.

    Example:
    >>> from art_sensreg.benchmark.step_cost.timing import without_folders
    >>> without_folders("no name in (/home/me/file.py)")
    'no name in (file.py)'
    """
    return re.sub(r"/(?:[^/\s]+/)+", "", " ".join(text.split()))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _time_model(settings: StepCostSettings, name: str, progress: Progress) -> ModelRecord:
    progress(f"{name}: warming up")
    steps = settings.epoch_steps or _choose_steps(settings, name)
    bench = make_bench(MODELS[name], settings.batch_size, steps, settings.device, settings.precision)
    variants = [VARIANTS[variant] for variant in settings.variants]
    units = _Units(bench, [variant.unit for variant in variants])
    timed = [_Timed(variant, bench, settings) for variant in variants]
    for repeat in range(max(settings.repeats, settings.slow_repeats)):
        progress(f"{name}: repeat {repeat + 1} of {settings.repeats}")
        _time_round([entry for entry in timed if repeat < entry.repeats], units)
    units_seconds = {
        unit: median(seconds) / (steps if unit == "epoch" else 1) for unit, seconds in units.seconds.items() if seconds
    }
    return ModelRecord(
        model=name,
        epoch_steps=steps,
        lean_seconds=units_seconds,
        variants=summarised(name, [entry.record for entry in timed]),
    )


def _choose_steps(settings: StepCostSettings, name: str) -> int:
    """How many steps take the plain loop about `EPOCH_SECONDS`."""
    bench = make_bench(MODELS[name], settings.batch_size, LEAST_STEPS, settings.device, settings.precision)
    run = epoch_loop(bench)
    times = [seconds_of(run, bench.device) for _ in range(6)]
    seconds = min(times) / LEAST_STEPS
    return min(max(round(EPOCH_SECONDS / seconds), LEAST_STEPS), MOST_STEPS)


def seconds_of(run: Run, device: torch.device, calls: int = 1) -> float:
    """
    Seconds of a call, with the GPU's work in it, but for what a training does before its first step.

    Example:
    >>> from art_sensreg.benchmark.step_cost.loops import SetUp
    >>> from art_sensreg.benchmark.step_cost.timing import seconds_of
    >>> seconds_of(lambda: SetUp(seconds=3600.0), torch.device("cpu")) < 0  # an hour less than it took
    True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start, set_up = time.perf_counter(), 0.0
    for _ in range(calls):
        done = run()
        set_up += done.seconds if isinstance(done, SetUp) else 0.0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start - set_up) / calls


class _Units:
    """The plain loops, warmed up, and how long each of their calls took."""

    def __init__(self, bench: Bench, names: Sequence[str]) -> None:
        self.device = bench.device
        self._runs = {name: UNITS[name](bench) for name in dict.fromkeys(names)}
        self.seconds: dict[str, list[float]] = {name: [] for name in self._runs}
        self.calls: dict[str, int] = {}
        for name, run in self._runs.items():
            run()
            calls = round(CALLS_SECONDS / seconds_of(run, self.device))
            self.calls[name] = 1 if name == "epoch" else min(max(calls, 1), 100)

    def time(self, name: str) -> float:
        """Time one of them now."""
        self.seconds[name].append(seconds_of(self._runs[name], self.device, self.calls[name]))
        return self.seconds[name][-1]


class _Timed:
    """A variant, warmed up, and its record."""

    def __init__(self, variant: Variant, bench: Bench, settings: StepCostSettings) -> None:
        self.variant = variant
        self.repeats = settings.slow_repeats if variant.slow else settings.repeats
        self.record = VariantRecord(variant=variant.name, unit=variant.unit)
        try:
            self.run = variant.prepare(bench)
            # An epoch of a slow one takes long, and it makes a new model each time anyway.
            warm = variant.prepare(bench.limited(min(LEAST_STEPS, bench.spec.steps))) if variant.slow else self.run
            warm()
            if settings.memory and bench.device.type == "cuda":
                rise = MemoryRise(steps=bench.spec.steps, megabytes=cuda_peak(self.run, bench.device))
                self.record = replace(self.record, memory=(rise,))
        except Exception as error:  # noqa: BLE001 - one failing variant must not take the others with it
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Record why, and time it no more."""
        self.repeats = 0
        known = isinstance(error, NotApplicable)
        reason = without_folders(str(error) if known else f"{type(error).__name__}: {error}")
        self.record = replace(self.record, status="not_applicable" if known else "error", reason=reason)

    def add(self, seconds: float, unit: float) -> None:
        """Record a repeat, and the mean time of the plain loop around it."""
        times, ratios = (*self.record.seconds, seconds), (*self.record.ratios, seconds / unit)
        self.record = replace(self.record, seconds=times, ratios=ratios)


def _time_round(entries: Sequence[_Timed], units: _Units) -> None:
    """Time each variant once, between two runs of its unit; neighbours share the one between them."""
    last = ("", 0.0)
    for entry in entries:
        unit = entry.variant.unit
        before = last[1] if last[0] == unit else units.time(unit)
        try:
            seconds = seconds_of(entry.run, units.device, units.calls[unit])
        except Exception as error:  # noqa: BLE001 - as above
            entry.fail(error)
            last = ("", 0.0)
            continue
        last = (unit, units.time(unit))
        entry.add(seconds, (before + last[1]) / 2)
