"""Writing results as JSON and CSV, in UTF-8; each file is written under a temporary name and renamed."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from art_sensreg.benchmark.results.reading import SCHEMA
from art_sensreg.benchmark.results.records import Results
from art_sensreg.benchmark.results.schema import Record
from art_sensreg.utils.files import atomic_write
from art_sensreg.utils.text import escape_csv, one_line

# What fits into so many characters stands on one line of a JSON file.
_LINE = 400


def results_json(results: Results) -> str:
    """The text of `results.json`."""
    return json_text(
        {
            "schema": SCHEMA,
            "config": results.config.to_dict(),
            "environment": results.environment,
            "runs": results.runs,
            "left_out": results.left_out,
            "commands": results.commands,
        }
    )


def results_csv(results: Results) -> str:
    """
    The text of `results.csv`: one line for each attack, and for the worst case over them at each size; entries that a
    spreadsheet would compute are escaped.
    """
    lines = []
    for run in results.runs:
        head = {name: getattr(run, name) for name in ("defence", "dataset", "seed", "status", "clean_accuracy")}
        head["step_cost"] = run.step_cost
        worst = [{"attack": "worst-case", **plain(case)} for case in run.worst_case]
        for attack in [*map(plain, run.attacks), *worst] or [{}]:
            entries = {
                name: json.dumps(value) if isinstance(value, (dict, list)) else value for name, value in attack.items()
            }
            lines.append({**head, **entries})
    names = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(map(escape_csv, names))
    writer.writerows([escape_csv(line.get(name)) for name in names] for line in lines)
    return file.getvalue()


def json_text(value: Any) -> str:
    """
    A value as JSON that people can read: what is short stands on one line, other things on one line an entry.

    Example:
    >>> from art_sensreg.benchmark.results.writing import json_text
    >>> json_text({"sizes": [0.1, 0.2]}).strip()
    '{"sizes": [0.1, 0.2]}'
    """
    return _layout(plain(value), 0) + "\n"


def _layout(value: Any, depth: int) -> str:
    line = json.dumps(value, allow_nan=False)
    if len(line) <= _LINE or not isinstance(value, (dict, list)):
        return line
    if isinstance(value, dict):
        entries = [f"{json.dumps(name)}: {_layout(entry, depth + 1)}" for name, entry in value.items()]
    else:
        entries = [_layout(entry, depth + 1) for entry in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    indent = "\n" + " " * (depth + 1)
    return f"{first}{indent}{f',{indent}'.join(entries)}\n{' ' * depth}{last}"


def plain(value: Any) -> Any:
    """
    What JSON can hold of a value: records as objects, numbers of numpy as numbers, what is not finite as null, other
    things as text.

    Example:
    >>> from art_sensreg.benchmark.results.writing import plain
    >>> plain({"a": np.float32(0.5), "b": float("nan"), "c": (np.True_, Path("x"))})
    {'a': 0.5, 'b': None, 'c': [True, 'x']}
    """
    if isinstance(value, Record):
        entries = [
            (entry.name, getattr(value, entry.name), entry.metadata["required"])
            for entry in fields(value)
            if "read" in entry.metadata
        ]
        written = {name: entry for name, entry, always in entries if always or entry is not None}
        return plain({**written, **value.more})
    if isinstance(value, dict):
        return {one_line(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.generic, torch.Tensor, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, bool, int)) else one_line(value)


def write_text(path: Path, text: str) -> None:
    """
    Write a file aside and rename it.

    :raises OSError: If it cannot be written.
    """
    atomic_write(path, text.encode("utf-8", errors="backslashreplace"))


def save_picture(figure: Any, path: Path) -> None:
    """Write a picture aside and rename it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    atomic_write(path, file.getvalue())
