"""Shared by the stages of a run: ART's output is silenced, and an exception ends only the stage that raised it."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

from art_sensreg.training.distributed import ProcessLostError

logger = logging.getLogger(__name__)
T = TypeVar("T")

# What ends the whole suite; anything else that a stage raises, `sys.exit()` in a plugin included, ends that stage.
STOPS = (KeyboardInterrupt, ProcessLostError)


def attempt(stage: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """
    Run a stage whose failure must not take the others with it: what it returned and None, or None and what it raised.
    KeyboardInterrupt and `ProcessLostError` get through.
    """
    try:
        return stage(), None
    except STOPS:
        raise
    except BaseException as error:  # noqa: BLE001 - the caller decides
        logger.debug("%s", traceback.format_exc())
        return None, error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what is run inside: ART's progress bars cannot all be switched off; they write to stderr."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
