import errno
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from art_sensreg.utils.files import atomic_write, available_memory, check_regular, read_regular, usable_folder


def put(folder, kind):
    path = folder / "there"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        (folder / "other").write_text("mine")
        path.symlink_to(folder / "other")
    return path


@pytest.mark.parametrize(
    ("kind", "error"),
    [("pipe", OSError), ("folder", IsADirectoryError), ("link", OSError), ("nothing", FileNotFoundError)],
)
def test_only_regular_files_are_opened(tmp_path, kind, error):
    path = put(tmp_path, kind)
    for look in (check_regular, lambda path: read_regular(path, 100)):
        with pytest.raises(error):
            look(path)


def test_a_link_is_followed_where_the_user_named_it(tmp_path):
    check_regular(put(tmp_path, "link"), links=True)


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    (tmp_path / "large").write_bytes(b"12345")
    assert read_regular(tmp_path / "large", 5) == b"12345"
    with pytest.raises(ValueError, match="large has 5 bytes; expected 4 at most"):
        read_regular(tmp_path / "large", 4)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    path = put(tmp_path, kind)
    with pytest.raises(FileExistsError, match="not a regular file"):
        atomic_write(path, b"new")
    if kind == "link":
        assert (tmp_path / "other").read_text() == "mine"


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    atomic_write(path, b"old")
    for call in ("os.fsync", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(call, interrupt)
            with pytest.raises(KeyboardInterrupt):
                atomic_write(path, b"new")
        assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]
        assert path.read_bytes() == b"old"


def interrupt(*args):
    raise KeyboardInterrupt


def test_what_a_killed_run_left_is_replaced_and_no_link_followed(tmp_path):
    (tmp_path / "other").write_text("mine")
    (tmp_path / "table.csv.part").symlink_to(tmp_path / "other")
    atomic_write(tmp_path / "table.csv", b"new")
    assert (tmp_path / "table.csv").read_bytes() == b"new"
    assert (tmp_path / "other").read_text() == "mine"


def test_a_folder_is_made_and_proved(tmp_path, monkeypatch):
    assert list(usable_folder("--out", tmp_path / "runs" / "first").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"`--out` .* cannot be written into: it is a file, or lies below one"):
        usable_folder("--out", tmp_path / "file" / "run")

    def full(**settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(OSError, match=r"`--out` .* cannot be written into: No space left on device"):
        usable_folder("--out", tmp_path)


def test_the_memory_of_this_machine():
    assert available_memory() > 2**28


def test_several_may_prove_the_same_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: usable_folder("--out", tmp_path / "run"), range(400)))
    assert set(found) == {tmp_path / "run"}
    assert list((tmp_path / "run").iterdir()) == []
