"""Writes that fail leave the checkpoints that were there, and say what happened."""

import errno
import io
import os
import subprocess
from pathlib import Path

import pytest
import torch

from art_sensreg.training.checkpoint.folder import (
    check_folder,
    read_checkpoint,
    read_newest,
    write_checkpoint,
)
from tests.training.checkpoint.helpers import SMALL, names, same, steps


def failing(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


class FullFile(io.BytesIO):
    """A file that takes some bytes and then no more."""

    def __init__(self, path, mode):
        super().__init__()
        Path(path).write_bytes(b"half of it")

    write = failing(errno.ENOSPC)


FAILURES = [
    ("builtins.open", failing(errno.EACCES), PermissionError),
    ("builtins.open", FullFile, OSError),
    ("os.fsync", failing(errno.EIO), OSError),
    ("os.replace", failing(errno.EROFS), OSError),
]


@pytest.mark.parametrize(("target", "fail", "kind"), FAILURES)
def test_a_failed_write_leaves_the_older_ones_and_says_so(tmp_path, monkeypatch, target, fail, kind):
    last = write_checkpoint(tmp_path, 1, SMALL, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        message = r"step 2 could not be written into '.*' \(.+\); the last good one is checkpoint-000000001.safetensors"
        with pytest.raises(kind, match=message) as caught:
            write_checkpoint(tmp_path, 2, SMALL, keep=1)
    assert type(caught.value) is kind
    assert caught.value.errno == caught.value.__cause__.errno
    assert names(tmp_path) == [last.name]
    assert same(read_newest(tmp_path), (last, SMALL))


def test_a_first_failed_write_says_that_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.open", FullFile)
    with pytest.raises(OSError, match=r"step 1 .*No space left on device\); there is none") as caught:
        write_checkpoint(tmp_path, 1, SMALL, keep=1)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_the_file_is_on_the_disk_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda file: (calls.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr("os.replace", lambda part, target: (calls.append("rename"), replace(part, target)))
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to ask for the names of files")
    path = write_checkpoint(tmp_path, 1, SMALL, keep=1)
    assert calls == [f"{path}.part", "rename", str(tmp_path)]


def test_a_folder_that_cannot_be_synchronised_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("os.open", failing(errno.EACCES))  # as on Windows
    assert read_checkpoint(write_checkpoint(tmp_path, 1, SMALL, keep=1))[0] == 1


def test_an_interrupt_leaves_no_half_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, 1, SMALL, keep=1)
    assert names(tmp_path) == []


def test_a_limit_on_the_size_of_files(tmp_path):
    resource = pytest.importorskip("resource")
    write_checkpoint(tmp_path, 1, SMALL, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"step 2 .*the last good one is checkpoint-000000001") as caught:
            write_checkpoint(tmp_path, 2, torch.ones(100_000), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == ["checkpoint-000000001.safetensors"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(small_disk):
    last = write_checkpoint(small_disk, 1, torch.ones(5000), keep=1)
    (small_disk / "checkpoint-000000002.safetensors.part").write_bytes(b"stale" * 4000)
    with pytest.raises(OSError, match=r"step 2 .*No space left on device") as caught:
        write_checkpoint(small_disk, 2, torch.ones(20_000), keep=1)
    assert caught.value.errno == errno.ENOSPC
    assert names(small_disk) == [last.name]
    write_checkpoint(small_disk, 3, torch.ones(5000), keep=1)
    assert steps(small_disk) == [3]


@pytest.mark.parametrize(("make", "kind"), [(False, FileNotFoundError), (True, NotADirectoryError)])
def test_a_folder_that_vanished(tmp_path, make, kind):
    folder = tmp_path / "gone"
    if make:
        folder.write_text("a file in its place")
    with pytest.raises(kind, match=r"step 4 could not be written into '.*gone' \(.*\); there is none"):
        write_checkpoint(folder, 4, SMALL, keep=1)


@pytest.mark.parametrize(
    ("target", "number", "kind"),
    [
        ("pathlib.Path.mkdir", errno.EROFS, OSError),
        ("pathlib.Path.write_bytes", errno.EACCES, PermissionError),
        ("pathlib.Path.write_bytes", errno.ENOSPC, OSError),
        ("pathlib.Path.unlink", errno.EPERM, PermissionError),
    ],
)
def test_a_folder_that_takes_no_files(tmp_path, monkeypatch, target, number, kind):
    message = rf"`checkpoint_dir` is '.*', where no file can be written \({os.strerror(number)}\)"
    with monkeypatch.context() as patch:
        patch.setattr(target, failing(number))
        with pytest.raises(kind, match=message) as caught:
            check_folder(tmp_path)
    assert caught.value.errno == number
