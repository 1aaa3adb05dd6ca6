"""Reading `results.json`, which may have been edited: it is validated completely before it is used."""

# ruff: noqa: RUF009 - `required` and `optional` make fields
from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from art_sensreg.auditing import AuditReport
from art_sensreg.benchmark.config.optimization import OPTIMIZATION_OPTIONS, OptimizationSettings
from art_sensreg.benchmark.config.settings import BUDGETS, SuiteSettings
from art_sensreg.benchmark.config.threat_models import NORMS, Threats, threats_of
from art_sensreg.benchmark.results.entries import ATTACK_NAME, AuditRecord
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.benchmark.results.schema import (
    COUNT,
    FLAG,
    NAME,
    NUMBER,
    OPTION,
    PLAIN,
    POSITIVE,
    TEXT,
    WHOLE,
    Record,
    Unfit,
    list_of,
    one_of,
    optional,
    or_none,
    record,
    required,
    table_of,
)
from art_sensreg.utils.files import read_regular
from art_sensreg.utils.text import one_line

SCHEMA = 1
# The largest run so far has two megabytes.
_LIMIT = 2**27


@dataclass(frozen=True, kw_only=True)
class _Config(Record):
    """The settings as they stand in the file, but for norms and sizes."""

    dataset: str = required(TEXT)
    defences: tuple[str, ...] = required(list_of(NAME, least=1))
    attacks: tuple[str, ...] = required(list_of(ATTACK_NAME))
    model: str = required(TEXT)
    activation: str = required(TEXT)
    norm_layer: str = required(TEXT)
    budget: str = required(one_of(*BUDGETS))
    seeds: int = required(COUNT)
    epochs: int = required(COUNT)
    batch_size: int = required(COUNT)
    learning_rate: float = required(POSITIVE)
    train_size: int | None = required(or_none(COUNT))
    test_size: int = required(COUNT)
    validation: bool = required(FLAG)
    data_crc32: int = required(WHOLE)
    device: str = required(TEXT)
    all_points: bool = optional(FLAG, True)  # older files have no such entry: every attack saw every image
    options: dict[str, dict[str, Any]] | None = optional(table_of(TEXT, table_of(TEXT, OPTION)))
    weights: str | None = optional(or_none(TEXT))
    network_crc32: int | None = optional(or_none(WHOLE))
    penalties: dict[str, dict[str, Any]] | None = optional(or_none(table_of(TEXT, table_of(TEXT, OPTION))))
    # Older files lack these too: every defence was optimised in its own way.
    optimizer: str | None = optional(or_none(TEXT))
    momentum: float | None = optional(or_none(NUMBER))
    weight_decay: float | None = optional(or_none(NUMBER))
    label_smoothing: float | None = optional(or_none(NUMBER))
    schedule: str | None = optional(or_none(TEXT))
    weight_average: float | None = optional(or_none(NUMBER))
    max_grad_norm: float | None = optional(or_none(NUMBER))
    precision: str | None = optional(or_none(TEXT))
    augment: str | None = optional(or_none(TEXT))


def _settings(value: Any, place: str) -> SuiteSettings:
    found = record(_Config)(value, place)
    values = {name: entry for name, entry in vars(found).items() if name not in ("more", "options")}
    try:
        optimization = OptimizationSettings(**{name: values.pop(name) for name in OPTIMIZATION_OPTIONS})
    except ValueError as error:
        raise Unfit(f"config is unfit: {one_line(error)}") from None
    return SuiteSettings(threats=_threats(value), options=found.options or {}, optimization=optimization, **values)


def _threats(config: dict[str, Any]) -> Threats:
    norm = one_of(*NORMS)
    sizes = list_of(POSITIVE, least=1)
    several = isinstance(config.get("norm"), list)
    wanted = {"norm": list_of(norm, least=1), "eps": table_of(norm, sizes)} if several else {"norm": norm, "eps": sizes}
    for name, read in wanted.items():
        if name not in config:
            raise Unfit(f"config has no `{name}`")
        read(config[name], f"config.{name}")
    if several and set(config["norm"]) != set(config["eps"]):
        raise Unfit("config.eps has sizes of other norms than config.norm")
    return threats_of(config)


@dataclass(frozen=True, kw_only=True)
class _File(Record):
    config: SuiteSettings = required(_settings)
    environment: dict[str, Any] = required(table_of(TEXT, PLAIN))
    runs: tuple[RunRecord, ...] = required(list_of(record(RunRecord)))
    left_out: tuple[str, ...] = optional(list_of(TEXT), ())
    commands: tuple[str, ...] = optional(list_of(TEXT), ())


def read_results(path: Path) -> Results:
    """
    Read and check the results of a run.

    :param path: `results.json`.
    :return: Its content.
    :raises ValueError: If it is not a regular file, is damaged, of another schema, or holds what this program does not
        write; one line that names the place.
    """
    try:
        data = json.loads(read_regular(path, _LIMIT).decode("utf-8"), parse_constant=_no_constant)
        if not isinstance(data, dict):
            raise Unfit(f"it holds {type(data).__name__}; expected an object")
        if data.get("schema") != SCHEMA or isinstance(data["schema"], bool):
            raise Unfit(f"its `schema` is {data.get('schema')!r}; expected {SCHEMA}")
        file = record(_File)(data, "")
        _check_runs(file.runs)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        reason = one_line(error) or type(error).__name__
        raise ValueError(f"{path} cannot be used as the results of a run ({reason})") from None
    entries = {name: value for name, value in vars(file).items() if name != "more"}
    return Results(**entries)


def audit_record(report: AuditReport) -> AuditRecord:
    """The record of an audit."""
    return record(AuditRecord)(report.to_dict(), "audit")


def stored_results(out: Path) -> Results | None:
    """Read the results that an output folder has, or None. ValueError if they are not what this program writes."""
    check_run_folder(out)
    path = out / "results.json"
    if not path.exists():
        return None
    try:
        return read_results(path)
    except ValueError as error:
        raise ValueError(f"`--out`: {error}; choose another folder") from error


def check_run_folder(out: Path) -> None:
    """Refuse a folder in which a link, a pipe or a device lies where a run would read or write."""
    places = [out / name for name in ("masks", "checkpoints", "examples")]
    for folder in places:
        if os.path.lexists(folder) and not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise ValueError(f"`--out`: {folder} is not a folder; expected one, or nothing there")
    written = [path for pattern in ("results.*", "report.*", "*.png", "*.png.*") for path in out.glob(pattern)]
    inner = [path for folder in places if folder.is_dir() for path in folder.iterdir() if path.name != "training"]
    for path in (*written, *inner):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError(f"`--out`: {path} is not a regular file; remove it, or choose another folder")


def _no_constant(name: str) -> NoReturn:
    raise Unfit(f"it holds {name}, which is not a JSON number")


def _check_runs(runs: tuple[RunRecord, ...]) -> None:
    """What entries of a run must agree on."""
    seen = set()
    for number, run in enumerate(runs):
        place = f"runs[{number}]"
        if run.key in seen:
            raise Unfit(f"{place} is a second run of {run.defence} with seed {run.seed}")
        seen.add(run.key)
        if run.trained and run.train_seconds is None:
            raise Unfit(f"{place} has a clean accuracy, and no `train_seconds`")
        if run.audit is not None and run.audit.checks and run.audit.settings is None:
            raise Unfit(f"{place}.audit has no `settings`")
        for position, attack in enumerate(run.attacks):
            ran = attack.mask is not None
            if ran != (attack.robust_accuracy is not None) or (ran and attack.n == 0):
                raise Unfit(f"{place}.attacks[{position}] has a mask and no accuracy, or an accuracy and no mask")
            if not ran and attack.status == "not_applicable" and attack.reason is None:
                raise Unfit(f"{place}.attacks[{position}] has no `reason`")
