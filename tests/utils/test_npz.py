"""Archives of numpy arrays from untrusted sources: each wrong one is one line, without a pickle or a hang."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from art_sensreg.utils import npz
from art_sensreg.utils.npz import read_npz
from tests.support.npz_files import GOOD, archive, member, with_header

HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 28, 28), }"
HOSTILE = {
    "a header of a petabyte": {"x_train": with_header(HUGE, b"\0" * 64)},
    "a header with a negative size": {"x_train": with_header(HUGE.replace("1000000000000", "-1"), b"\0" * 64)},
    "a header of a megabyte": {"x_train": with_header("#" * 60000, b"")},
    "a header that nests": {"x_train": with_header("(" * 9000, b"")},
    "a header of code": {"x_train": with_header("__import__('os').system('true')", b"")},
    "an unknown version": {"x_train": with_header(HUGE, version=b"\x09\x09")},
    "no array": {"x_train": b"not an array"},
    "nothing": {"x_train": b""},
    "a pickle": {"x_train": pickle.dumps([1, 2])},
    "objects": {"x_train": member(np.zeros((1,), np.uint8))[:0] + with_header(HUGE.replace("|u1", "|O"))},
    "a cut body": {"x_train": member(GOOD["x_train"])[:-7]},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path, case):
    archive(tmp_path / "own.npz", **HOSTILE[case])
    with pytest.raises(ValueError, match=r"^own\.npz cannot be used: ") as stop:
        read_npz(tmp_path / "own.npz", "own.npz", list(GOOD))
    assert "\n" not in str(stop.value)
    assert len(str(stop.value)) < 700


def test_arrays_are_read_from_a_path_a_link_and_a_file(tmp_path):
    archive(tmp_path / "own.npz", more=member(np.arange(3)))
    (tmp_path / "link.npz").symlink_to(tmp_path / "own.npz")
    for source in (tmp_path / "own.npz", tmp_path / "link.npz", io.BytesIO((tmp_path / "own.npz").read_bytes())):
        found = read_npz(source, "own.npz", ("more",))
        assert list(found) == ["more"]
        assert found["more"].tolist() == [0, 1, 2]


def test_what_expands_into_all_memory_is_not_expanded(tmp_path, monkeypatch):
    archive(tmp_path / "own.npz", x_train=member(np.zeros((20_000, 28, 28), np.uint8)))  # 16 MB in 16 kB
    monkeypatch.setattr(npz, "_LARGE", 10_000_000)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *args, **kwargs: pytest.fail("expanded"))
    with pytest.raises(ValueError, match="bytes expand to"):
        read_npz(tmp_path / "own.npz", "own.npz", ("x_train",))
    monkeypatch.setattr(npz, "available_memory", lambda: 20_000_000)
    with pytest.raises(ValueError, match="memory is too small"):
        read_npz(tmp_path / "own.npz", "own.npz", ("x_train",))


def test_a_size_that_the_archive_belies(tmp_path):
    """The directory tells of more bytes than the member holds."""
    archive(tmp_path / "own.npz", zipfile.ZIP_STORED)
    data = bytearray((tmp_path / "own.npz").read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 2**31)
    (tmp_path / "own.npz").write_bytes(data)
    with pytest.raises(ValueError, match="cannot be used"):
        read_npz(tmp_path / "own.npz", "own.npz", list(GOOD))


def test_a_terabyte_of_nothing(tmp_path):
    with open(tmp_path / "own.npz", "wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(ValueError, match="it is not an archive"):
        read_npz(tmp_path / "own.npz", "own.npz", list(GOOD))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_and_a_folder_are_no_files(tmp_path, make):
    make(tmp_path / "own.npz")
    with pytest.raises(ValueError, match=r"own\.npz is a (pipe|folder); expected a regular file"):
        read_npz(tmp_path / "own.npz", "own.npz", list(GOOD))
