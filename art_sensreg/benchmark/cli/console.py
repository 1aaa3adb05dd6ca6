"""How the programs use the terminal: one line for an error, and the documented exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

from art_sensreg.benchmark.cli.interrupts import interrupts_never_lost
from art_sensreg.utils.text import error_text, one_line

logger = logging.getLogger(__name__)

# As shells have it: 128 and the number of SIGINT.
INTERRUPTED = 130


def say(*lines: str) -> None:
    """
    Print lines. If the reader has gone away (`... | head`), that is not an error: the rest is dropped.

    :raises OSError: If they cannot be written for another reason.

    Example:
    >>> from art_sensreg.benchmark.cli.console import say
    >>> say("first", "second")
    first
    second
    """
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        _drop_output()


def run_program(main: Callable[[], int | None]) -> int:
    """
    Run a program, and return its exit code: 1 for what no program expects (a full disk, say), 130 for Ctrl-C, each with
    one line. With ART_SENSREG_DEBUG set the traceback is shown too.

    Example:
    >>> from art_sensreg.benchmark.cli.console import run_program
    >>> run_program(lambda: 0)
    0
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = 1
    try:
        with interrupts_never_lost():
            code = main() or 0
        sys.stdout.flush()
    except SystemExit:
        _flush_or_drop()  # `--help | head`
        raise
    except KeyboardInterrupt:
        code = INTERRUPTED
        _complain("interrupted; what was written is kept")
    except BrokenPipeError:
        _drop_output()
        code = 0
    except Exception as error:  # noqa: BLE001 - a traceback helps no user of a program
        if os.environ.get("ART_SENSREG_DEBUG"):
            traceback.print_exc()
        _complain(f"error: {_reason(error)}")
    _flush_or_drop()
    return code


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{error.strerror}; what was written is kept")
    return error_text(error)


def _complain(line: str) -> None:
    with suppress(OSError, ValueError):
        print(
            f"\n{os.path.basename(sys.argv[0])}: {line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True
        )


def _flush_or_drop() -> None:
    """Drop the buffer, which cannot be written either; otherwise Python complains again at exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _drop_output()


def _drop_output() -> None:
    with suppress(OSError, ValueError, AttributeError):
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
