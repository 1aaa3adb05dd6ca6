"""`results.json` as somebody may have left or edited it: checked whole before anything is made of it."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from art_sensreg.auditing.report import STATUSES
from art_sensreg.benchmark.attacks import ATTACKS
from art_sensreg.benchmark.config.settings import BUDGETS
from art_sensreg.benchmark.config.threat_models import NORMS
from art_sensreg.utils.files import read_regular

SCHEMA = 1
# The largest run so far has two megabytes.
_LIMIT = 2**27
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_-]{0,99}")
MASK = re.compile(r"masks/[A-Za-z0-9.+_-]{1,240}\.npz")

# A kind is a function that returns what was expected, or None if the value is of this kind.
Kind = Callable[[Any, str], None]


class _Unfit(Exception):
    """A value of another kind, and where it stands."""


def _kind(expected: str, test: Callable[[Any], bool]) -> Kind:
    def check(value: Any, place: str) -> None:
        if not test(value):
            text = repr(value)
            raise _Unfit(f"{place} is {text if len(text) < 60 else text[:60] + '...'}; expected {expected}")

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


_text = _kind("text", lambda value: isinstance(value, str))
_number = _kind("a finite number", _is_number)
_size = _kind("a finite number above 0", lambda value: _is_number(value) and value > 0)
_seconds = _kind("seconds", lambda value: _is_number(value) and value >= 0)
_share = _kind("a share from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
_whole = _kind("a whole number", _is_whole)
_count = _kind("a whole number above 0", lambda value: _is_whole(value) and value > 0)
_flag = _kind("true or false", lambda value: isinstance(value, bool))
_plain = _kind("text or a number", lambda value: isinstance(value, (str, bool)) or value is None or _is_number(value))
_name = _kind("a name", lambda value: isinstance(value, str) and NAME.fullmatch(value) is not None)
_mask = _kind("a file in masks/", lambda value: isinstance(value, str) and MASK.fullmatch(value) is not None)


def _one_of(*names: str) -> Kind:
    return _kind(f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names)


def _or_none(kind: Kind) -> Kind:
    def check(value: Any, place: str) -> None:
        if value is not None:
            kind(value, place)

    return check


def _list_of(kind: Kind, least: int = 0) -> Kind:
    def check(value: Any, place: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise _Unfit(f"{place} is {type(value).__name__}; expected a list{' with entries' if least else ''}")
        for number, entry in enumerate(value):
            kind(entry, f"{place}[{number}]")

    return check


def _table_of(key: Kind, kind: Kind) -> Kind:
    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise _Unfit(f"{place} is {type(value).__name__}; expected an object")
        for name, entry in value.items():
            key(name, f"a name in {place}")
            kind(entry, f"{place}.{name}")

    return check


def _fields(**kinds: Kind) -> Kind:
    """An object with these entries, those that end in `_or_missing` if they are there; others are left alone."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise _Unfit(f"{place} is {type(value).__name__}; expected an object")
        for field, kind in kinds.items():
            name = field.removesuffix("_or_missing")
            if name in value:
                kind(value[name], f"{place}.{name}" if place else name)
            elif name == field:
                raise _Unfit(f"{place or 'it'} has no `{name}`")

    return check


def _option(value: Any, place: str) -> None:
    (_list_of(_option) if isinstance(value, list) else _plain)(value, place)


_norm = _one_of(*NORMS)
_interval: dict[str, Kind] = {"ci_low": _share, "ci_high": _share, "n": _count}
_case = _fields(norm=_norm, eps=_size, robust_accuracy=_share, **_interval)
_attack_name = _kind(
    "the name of an attack",
    lambda value: isinstance(value, str) and (value in ATTACKS or re.fullmatch(r"pgd-eot-\d{1,4}", value) is not None),
)
_row = _fields(
    attack=_attack_name,
    norm=_norm,
    eps=_size,
    view_or_missing=_one_of("default", "adaptive"),
    status_or_missing=_one_of("ok", "not_applicable", "error"),
    robust_accuracy=_or_none(_share),
    n=_whole,
    seen_or_missing=_whole,
    seconds=_seconds,
    mask=_or_none(_mask),
    reason_or_missing=_text,
    surrogates_or_missing=_list_of(_text),
    random_or_missing=_table_of(_name, _or_none(_number)),
)
_check = _fields(
    name=_name,
    status=_one_of(*STATUSES),
    value=_or_none(_number),
    threshold=_or_none(_number),
    source=_text,
    meaning_or_missing=_text,
    note_or_missing=_text,
    seconds_or_missing=_seconds,
)
_audit = _fields(verdict=_text, settings_or_missing=_table_of(_text, _plain), checks=_list_of(_check))
_score = _fields(
    metric=_text,
    saliency=_text,
    value=_number,
    ci_low=_or_none(_number),
    ci_high=_or_none(_number),
    n=_whole,
    better=_one_of("higher", "lower"),
)
_query_fields = _fields(
    attack=_attack_name,
    norm=_norm,
    eps=_size,
    n=_count,
    steps=_count,
    mean=_seconds,
    undefended_mean=_seconds,
    robust_accuracy=_share,
    undefended_robust_accuracy=_share,
)


def _queries(value: Any, place: str) -> None:
    if value != {}:  # nothing was counted
        _query_fields(value, place)


_run = _fields(
    defence=_name,
    dataset=_text,
    seed=_whole,
    status=_one_of("ok", "not_applicable", "error"),
    reason=_text,
    clean_accuracy=_or_none(_share),
    train_seconds=_or_none(_seconds),
    step_cost=_or_none(_seconds),
    attacks=_list_of(_row),
    worst_case=_list_of(_case),
    union_or_missing=_list_of(_fields(eps=_table_of(_norm, _size), robust_accuracy=_share, **_interval)),
    random_noise_or_missing=_list_of(_fields(norm=_norm, eps=_size, accuracy=_share, n=_whole)),
    eot_curve_or_missing=_list_of(_fields(norm=_norm, eps=_size, samples=_count, robust_accuracy=_share, **_interval)),
    certified_or_missing=_list_of(_fields(norm=_norm, eps=_size, accuracy=_share, **_interval)),
    queries_or_missing=_queries,
    explanations_or_missing=_list_of(_score),
    claim_or_missing=_fields(metric=_text, threat=_text, status=_text, text=_text),
    audit_or_missing=_audit,
    notes_or_missing=_list_of(_text),
    measure_error_or_missing=_text,
    crashed_or_missing=_flag,
)
_config = _fields(
    dataset=_text,
    defences=_list_of(_name, least=1),
    attacks=_list_of(_attack_name),
    model=_text,
    activation=_text,
    norm_layer=_text,
    budget=_one_of(*BUDGETS),
    seeds=_count,
    epochs=_count,
    test_size=_count,
    validation=_flag,
    all_points_or_missing=_flag,
    options_or_missing=_table_of(_text, _table_of(_text, _option)),
)
_results = _fields(
    config=_config,
    environment=_table_of(_text, _plain),
    runs=_list_of(_run),
    left_out_or_missing=_list_of(_text),
)


def read_results(path: Path) -> dict[str, Any]:
    """
    Read and check the results of a run.

    :param path: `results.json`.
    :return: Its content.
    :raises ValueError: If it is no regular file, is damaged, of another schema, or holds what this program does not
        write; one line that names the place.
    """
    try:
        data = json.loads(read_regular(path, _LIMIT).decode("utf-8"), parse_constant=_no_constant)
        if not isinstance(data, dict):
            raise ValueError(f"it holds {type(data).__name__}; expected an object")
        if data.get("schema") != SCHEMA or isinstance(data["schema"], bool):
            raise ValueError(f"its `schema` is {data.get('schema')!r}; expected {SCHEMA}")
        _results(data, "")
        _check_threats(data["config"])
        _check_runs(data["runs"])
    except (_Unfit, OSError, ValueError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be used as the results of a run ({reason})") from None
    return data


def check_run_folder(out: Path) -> None:
    """
    Refuse a folder in which something else lies where a run would read or write: a link, a pipe, a device.

    :param out: Output folder of a run; it may be missing.
    :raises ValueError: If there is such a thing; one line.
    """
    places = [out / name for name in ("masks", "checkpoints")]
    for folder in places:
        if os.path.lexists(folder) and not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise ValueError(f"`--out`: {folder} is no folder; expected one, or nothing there")
    written = [path for pattern in ("results.*", "report.*", "*.png", "*.png.*") for path in out.glob(pattern)]
    inner = [path for folder in places if folder.is_dir() for path in folder.iterdir() if path.name != "training"]
    for path in (*written, *inner):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError(f"`--out`: {path} is no regular file; remove it, or choose another folder")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _check_threats(config: dict[str, Any]) -> None:
    if isinstance(config.get("norm"), str):
        _fields(norm=_norm, eps=_list_of(_size, least=1))(config, "config")
        return
    _fields(norm=_list_of(_norm, least=1), eps=_table_of(_norm, _list_of(_size, least=1)))(config, "config")
    if set(config["norm"]) != set(config["eps"]):
        raise _Unfit("config.eps has sizes of other norms than config.norm")


def _check_runs(runs: list[dict[str, Any]]) -> None:
    """What entries of a run must agree on."""
    seen = set()
    for number, run in enumerate(runs):
        place = f"runs[{number}]"
        if (run["defence"], run["seed"]) in seen:
            raise _Unfit(f"{place} is a second run of {run['defence']} with seed {run['seed']}")
        seen.add((run["defence"], run["seed"]))
        if (run["clean_accuracy"] is None) != (run["train_seconds"] is None) and run["clean_accuracy"] is not None:
            raise _Unfit(f"{place} has a clean accuracy, and no `train_seconds`")
        if run.get("audit") and run["audit"]["checks"] and "settings" not in run["audit"]:
            raise _Unfit(f"{place}.audit has no `settings`")
        for position, row in enumerate(run["attacks"]):
            filled = row["mask"] is not None
            if filled != (row["robust_accuracy"] is not None) or (filled and row["n"] == 0):
                raise _Unfit(f"{place}.attacks[{position}] has a mask and no accuracy, or an accuracy and no mask")
            if not filled and row.get("status") == "not_applicable" and "reason" not in row:
                raise _Unfit(f"{place}.attacks[{position}] has no `reason`")
