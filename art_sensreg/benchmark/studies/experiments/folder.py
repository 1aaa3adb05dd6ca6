"""The folder of an experiment: a record for each row and seed, masks, packed checkpoints, and who works on what."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from art_sensreg.benchmark.config.settings import SuiteSettings
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.records import Results, RunRecord
from art_sensreg.benchmark.results.store import ResultStore
from art_sensreg.benchmark.results.writing import json_text, results_json, write_text
from art_sensreg.training.checkpoint.lock import FolderLock
from art_sensreg.utils.files import atomic_write, read_regular, usable_folder

_LARGEST = 2**30


def cell_name(row: str, seed: int) -> str:
    """How the files of a row and seed are called."""
    return f"{row}-seed{seed}"


class ExperimentFolder:
    """
    The files of an experiment. Records are `results.json` of the suite with one run each: processes that work on
    different rows write different files. OSError if nothing can be written into the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = usable_folder("--out", out)
        for name in ("records", "masks", "checkpoints", "costs", "locks"):
            (out / name).mkdir(exist_ok=True)

    def store(self, row: str, seed: int, settings: SuiteSettings) -> ResultStore:
        """The store of a row and seed, with what is there; ValueError if that was made with other settings."""
        path = self._record(row, seed)
        previous = read_results(path) if path.exists() else None
        difference = previous and settings.first_difference(previous.config)
        if difference:
            raise ValueError(
                f"{path} was made with other settings: {difference}; remove it to do it again, or choose another --out"
            )
        store = ResultStore(self.out, settings, previous, writes=False)
        store.writes = True  # its folders are there, and another process may be writing beside it
        store.deliver = partial(self._write, path, store)
        return store

    def _write(self, path: Path, store: ResultStore, run: RunRecord) -> None:
        write_text(path, results_json(store.results))

    def _record(self, row: str, seed: int) -> Path:
        return self.out / "records" / f"{cell_name(row, seed)}.json"

    def results(self) -> list[Results]:
        """All records."""
        return [read_results(path) for path in sorted((self.out / "records").glob("*.json"))]

    def run(self, row: str, seed: int) -> RunRecord | None:
        """The record of a row and seed."""
        path = self._record(row, seed)
        return read_results(path).run(row, seed) if path.exists() else None

    @contextmanager
    def taken(self, row: str, seed: int) -> Iterator[bool]:
        """Take a row and seed for this process: whether it was free."""
        place = self.out / "locks" / cell_name(row, seed)
        place.mkdir(exist_ok=True)
        lock = FolderLock(place)
        free = lock.acquire()
        try:
            yield free
        finally:
            lock.release()

    def pack(self, row: str, seed: int) -> None:
        """Compress the checkpoint of a row and seed: the packed file is what is committed."""
        file = self._checkpoint(row, seed)
        if file.exists():
            atomic_write(file.with_suffix(".safetensors.gz"), gzip.compress(file.read_bytes(), 9, mtime=0))

    def unpack(self, row: str, seed: int) -> None:
        """Restore the checkpoint of a row and seed from its packed file, if only that is there."""
        file, packed = self._checkpoint(row, seed), self._checkpoint(row, seed).with_suffix(".safetensors.gz")
        if packed.exists() and not file.exists():
            atomic_write(file, gzip.decompress(read_regular(packed, _LARGEST)))

    def _checkpoint(self, row: str, seed: int) -> Path:
        return self.out / "checkpoints" / f"{cell_name(row, seed)}.safetensors"

    def costs(self) -> dict[str, Mapping[str, Any]]:
        """What training steps were measured to cost, by row."""
        return {path.stem: json.loads(path.read_text()) for path in sorted((self.out / "costs").glob("*.json"))}

    def put_cost(self, row: str, cost: Mapping[str, Any]) -> None:
        """Keep what a row's steps cost."""
        write_text(self.out / "costs" / f"{row}.json", json_text(cost))

    def spent(self, row: str, seed: int) -> float:
        """Seconds that went into a training that is not finished."""
        path = self._spent(row, seed)
        return float(path.read_text()) if path.exists() else 0.0

    def put_spent(self, row: str, seed: int, seconds: float | None) -> None:
        """Keep the seconds of a training that goes on later; None: it is finished."""
        if seconds is None:
            self._spent(row, seed).unlink(missing_ok=True)
        else:
            write_text(self._spent(row, seed), f"{seconds:.3f}\n")

    def _spent(self, row: str, seed: int) -> Path:
        (self.out / "checkpoints" / "training").mkdir(exist_ok=True)
        return self.out / "checkpoints" / "training" / f"{cell_name(row, seed)}.seconds"
