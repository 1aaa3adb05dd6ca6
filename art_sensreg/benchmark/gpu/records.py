"""What `gpu.json` holds: one frozen record for each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from art_sensreg.benchmark.results.schema import (
    FLAG,
    OPTION,
    SECONDS,
    TEXT,
    WHOLE,
    Record,
    list_of,
    one_of,
    record,
    required,
    table_of,
)

Row = Mapping[str, Any]
"""One line of a stage's table, by column. Stages run in separate processes and print their rows as JSON."""


@dataclass(frozen=True, kw_only=True)
class StageRecord(Record):
    """
    What came of a stage.

    :param status: `ok`, `failed`, `timeout`, or `left out` for lack of time; `reason` says why.
    :param records: What it measured.
    """

    stage: str = required(TEXT)
    status: str = required(one_of("ok", "failed", "timeout", "left out"), "ok")
    reason: str = required(TEXT, "")
    seconds: float = required(SECONDS, 0.0)
    records: tuple[Row, ...] = required(list_of(table_of(TEXT, OPTION)), ())


@dataclass(frozen=True, kw_only=True)
class GpuResults(Record):
    """
    A whole run.

    :param emulated: Whether the device was emulated on the CPU's memory.
    :param command: The command line that repeats it.
    :param environment: Versions and device.
    """

    schema: int = required(WHOLE, 1)
    emulated: bool = required(FLAG)
    command: str = required(TEXT)
    environment: Mapping[str, str] = required(table_of(TEXT, TEXT))
    seconds: float = required(SECONDS)
    stages: tuple[StageRecord, ...] = required(list_of(record(StageRecord)))
