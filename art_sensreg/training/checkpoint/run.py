"""The checkpoints of a run, which only it may continue."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from art_sensreg.training.checkpoint.comparison import Fingerprint, changed, first_difference
from art_sensreg.training.checkpoint.folder import check_folder, list_checkpoints, read_newest, write_checkpoint
from art_sensreg.training.checkpoint.lock import FolderLock
from art_sensreg.training.distributed import Processes

logger = logging.getLogger(__name__)

# Sections whose objects go on from where they were.
_RESTORED = ("module", "term of the objective")
# How texts of activations begin, which models and losses keep for inspection.
_RECORDS = {"module": ("array of", "list of", "tuple of", "dict of"), "term of the objective": ("array of",)}

_RECORDED = 3
"""Version of the description of a run: one that recorded less cannot be compared."""


@dataclass
class Checkpoints:
    """
    The newest `keep` checkpoints of one run; as a context manager it keeps other runs out of the folder. `describe`
    describes the run, told whether an epoch is over; it is called, and checkpoints are written, on the first process
    only.
    """

    folder: Path
    keep: int
    resume: bool
    describe: Callable[[bool], Fingerprint]
    processes: Processes
    _run: Fingerprint = field(default_factory=dict, init=False, repr=False)
    _moving: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False)
    _moved: dict[str, dict[str, str | None]] = field(default_factory=dict, init=False, repr=False)
    _lock: FolderLock | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Checkpoints:
        self._on_first(self._take)
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def newest(self) -> dict[str, Any] | None:
        """
        What the newest checkpoint that can be read holds, on every process; None to start from scratch. OSError if the
        folder cannot be written; ValueError if no checkpoint can be read, it is of another run, or there are some and
        `resume` is False.
        """
        tree: dict[str, Any] | None = self._on_first(self._read)
        return tree

    def _on_first(self, work: Callable[[], Any]) -> Any:
        """Do something on the first process; all get its result or error."""
        result: Any = None
        error: Exception | None = None
        if self.processes.rank == 0:
            try:
                result = work()
            except (OSError, ValueError, TypeError) as reason:
                error = reason
        result, error = self.processes.agree((result, error))
        if error is not None:
            raise error
        return result

    def _take(self) -> None:
        lock = FolderLock(check_folder(self.folder))
        if not lock.acquire():
            raise ValueError(
                f"`checkpoint_dir` {str(self.folder)!r} is in use by another run{lock.holder()}; expected a folder for "
                "each run, or this one after the other has ended."
            )
        self._lock = lock

    def _read(self) -> dict[str, Any] | None:
        check_folder(self.folder)
        self._run = self.describe(False)
        if not self.resume:
            if list_checkpoints(self.folder):
                raise ValueError(
                    f"`checkpoint_dir` {str(self.folder)!r} holds checkpoints of an earlier run; expected resume=True "
                    "to continue it, or another folder."
                )
            return None
        found = read_newest(self.folder)
        if found is None:
            return None
        path, tree = found
        stored = json.loads(tree["run"])
        if stored.get("recorded") != _RECORDED:
            raise ValueError(
                f"`resume`: {path.name} is of another version of art_sensreg, which recorded other things about its "
                "run, so that it cannot be told whether this is the same; expected the version that wrote it, or "
                "another folder."
            )
        difference = first_difference(stored["run"], self._run, stored["moving"])
        if difference:
            raise ValueError(f"`resume`: {path.name} is of another run: {difference}.")
        # What its start was like is what later continuations are compared with.
        self._run, self._moving = stored["run"], stored["moving"]
        self._moved = stored.get("moved", {})
        logger.info("Training continues from %s.", path)
        return dict(tree)

    def check_restored(self) -> None:
        """Say what had changed by the time of the checkpoint, and is not what it was then, now that all is restored."""
        if not any(self._moved.values()):
            return
        now = self.describe(False)
        lost = [
            f"the {section} `{name}`"
            for section, moved in self._moved.items()
            for name, text in moved.items()
            if text is not None and now[section].get(name) != text and not text.startswith(_RECORDS[section])
        ]
        if lost:
            more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
            logger.warning(
                "`resume`: %s%s changed during the run, and is not stored in checkpoints: it starts from scratch, and "
                "the result may differ. Objects with `state_dict` and `load_state_dict` are restored.",
                lost[0], more,
            )  # fmt: skip

    def write(self, step: int, tree: dict[str, Any]) -> None:
        """
        Write a checkpoint after so many steps in all: the first process does, the others wait for the outcome. OSError
        if it cannot be written; the last one is intact.
        """
        self._on_first(lambda: self._write(step, tree))

    def _write(self, step: int, tree: dict[str, Any]) -> None:
        now = self.describe(not tree["inside"])
        for section, names in changed(self._run, now).items():
            self._moving[section] = sorted({*self._moving.get(section, ()), *names})
        moved = {section: {n: now[section].get(n) for n in self._moving.get(section, ())} for section in _RESTORED}
        run = {"recorded": _RECORDED, "run": self._run, "moving": self._moving, "moved": moved}
        write_checkpoint(self.folder, step, {**tree, "run": json.dumps(run)}, self.keep)

    def last(self) -> str:
        """The newest checkpoint, in words, for error messages."""
        names = [path.name for path in list_checkpoints(self.folder)[:1]]
        return f"The last good checkpoint is {names[0]}." if names else "There is no checkpoint yet."
