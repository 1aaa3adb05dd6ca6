"""Two runs in one folder: the second is refused, whoever the first is, and for as long as that lives."""

import os
import signal
import threading
import time

import pytest

from art_sensreg.training import Callback
from art_sensreg.training.checkpoint.folder import list_checkpoints
from art_sensreg.training.checkpoint.lock import FolderLock
from tests.conftest import same_weights, weights_of
from tests.training.checkpoint.helpers import Run

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


class During(Callback):
    """Does something in the middle of a run."""

    def __init__(self, work):
        self.work, self.errors = work, []

    def on_step(self, state):
        try:
            self.work()
        except ValueError as error:
            self.errors.append(str(error))


def test_a_second_run_of_the_same_process_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    callback = During(lambda: Run().start(tmp_path / "x" / "..", resume=True))
    trained = Run(config={"callbacks": [callback]}).start(tmp_path)
    assert len(callback.errors) == 2
    assert all(f"`checkpoint_dir` '{tmp_path}" in error for error in callback.errors)
    assert all(f"is in use by another run (process {os.getpid()} of " in error for error in callback.errors)
    # The first is none the worse for it, and leaves nothing but its checkpoints behind.
    alone = Run().start(None)
    assert same_weights(weights_of(trained.classifier), weights_of(alone.classifier))
    assert {path.name for path in tmp_path.iterdir()} == {"x", "checkpoint-000000002.safetensors"}


def test_the_folder_is_free_after_an_error(tmp_path):
    class Broken(Callback):
        def on_step(self, state):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        Run(config={"callbacks": [Broken()]}).start(tmp_path)
    Run().start(tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"is of another run"):
        Run(config={"batch_size": 50}).start(tmp_path, resume=True)
    Run(epochs=2).start(tmp_path, resume=True)


def test_listing_needs_no_lock(tmp_path):
    found = []
    Run(config={"callbacks": [During(lambda: found.append(list_checkpoints(tmp_path)))]}, epochs=2).start(tmp_path)
    assert [len(paths) for paths in found] == [0, 0, 1, 1]


def child(work):
    """A process that does something and then waits to be killed."""
    ready, told = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            work()
            os.write(told, b"1")
            time.sleep(60)
        finally:
            os._exit(0)
    os.close(told)
    assert os.read(ready, 1) == b"1"
    os.close(ready)
    return process


def killed(process):
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


@needs_fork
def test_a_killed_process_frees_the_folder(tmp_path):
    held.append(FolderLock(tmp_path))
    process = child(held[0].acquire)
    with pytest.raises(ValueError, match=rf"in use by another run \(process {process} of "):
        Run().start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    killed(process)
    Run().start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000002.safetensors"]


held: list[object] = []


@needs_fork
def test_workers_of_a_killed_process_do_not_keep_the_folder(tmp_path):
    """A loader's worker, forked while the lock was held, may live on for a while."""
    numbers, told = os.pipe()

    def with_worker():
        lock = FolderLock(tmp_path)
        held.append(lock)
        assert lock.acquire()
        os.write(told, child(lambda: None).to_bytes(4, "little"))

    process = child(with_worker)
    worker = int.from_bytes(os.read(numbers, 4), "little")
    try:
        assert not FolderLock(tmp_path).acquire()
        killed(process)
        lock = FolderLock(tmp_path)
        assert lock.acquire()
        lock.release()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_only_one_of_many_threads_gets_it(tmp_path):
    locks = [FolderLock(tmp_path) for _ in range(16)]
    taken = []
    threads = [threading.Thread(target=lambda lock=lock: taken.append(lock.acquire())) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 15 + [True]
    for lock in locks:
        lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "valuable").write_text("data")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "valuable")
    with pytest.raises(OSError, match=r"\.lock"):
        Run().start(tmp_path / "run")
    assert (tmp_path / "valuable").read_text() == "data"


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    import errno
    import fcntl

    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    Run().start(tmp_path)
    assert "cannot be locked (No locks available): nothing keeps another process from writing there too" in caplog.text
