"""A user's file that registers defences, attacks or checks."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

from art_sensreg.benchmark.cli.arguments import OneLineParser
from art_sensreg.utils.text import error_text


def load_plugin(arguments: Sequence[str] | None, prog: str) -> None:
    """Run the file named by `--plugin`, if any, before the names that it registers are parsed."""
    early = OneLineParser(prog=prog, add_help=False, allow_abbrev=False)
    early.add_argument("--plugin", type=Path)
    file = early.parse_known_args(arguments)[0].plugin
    if file is None:
        return
    if not file.is_file():
        early.error(f"`--plugin`: there is no file {file}; expected a Python file that calls register(...)")
    try:
        runpy.run_path(str(file), run_name="plugin")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - whatever a user's file raises is one line here
        early.error(f"`--plugin` {file}: {error_text(error)}")
