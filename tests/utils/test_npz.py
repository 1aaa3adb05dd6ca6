"""Archives of numpy arrays from strangers: each wrong one is one line, without a pickle or a hang."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from art_sensreg.datasets import load_dataset

LABELS = np.array([0, 1, 2, 1])
GOOD = {"x_train": np.zeros((4, 5, 6), np.uint8), "y_train": LABELS, "x_test": np.zeros((4, 5, 6), np.uint8),
        "y_test": LABELS}  # fmt: skip


def member(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def with_header(text: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    head = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(head)) + head + body


def archive(path, compression=zipfile.ZIP_DEFLATED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in {**{key: member(value) for key, value in GOOD.items()}, **members}.items():
            file.writestr(f"{name}.npy", data)


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
    "records": {"x_train": member(np.zeros((4, 5, 6), dtype=[("a", "u1"), ("b", "u1")]))},
    "text": {"y_train": member(np.array(["a", "b", "c", "d"]))},
    "dates": {"y_train": member(np.array([0, 1, 2, 3], dtype="datetime64[s]"))},
    "complex images": {"x_train": member(np.zeros((4, 5, 6), complex))},
    "labels of a billion": {"y_train": member(np.array([0, 1, 2, 10**9]))},
    "labels of a billion in the test": {"y_test": member(np.array([0, 1, 2, 10**9]))},
    "labels beyond 64 bits": {"y_train": member(np.array([0, 1, 2, 2**64 - 1], np.uint64))},
    "no labels": {"y_train": member(np.zeros(0, int)), "x_train": member(np.zeros((0, 5, 6), np.uint8))},
    "rows of labels": {"y_train": member(np.eye(4, dtype=int))},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_line(tmp_path, case):
    archive(tmp_path / "own.npz", **HOSTILE[case])
    with pytest.raises(ValueError, match=r"^`dataset`: own\.npz cannot be used: ") as stop:
        load_dataset(str(tmp_path / "own.npz"))
    assert "\n" not in str(stop.value)
    assert len(str(stop.value)) < 700


def test_labels_up_to_a_thousand_classes_are_labels(tmp_path):
    archive(tmp_path / "own.npz", y_train=member(np.array([0, 1, 2, 999])))
    assert load_dataset(str(tmp_path / "own.npz")).nb_classes == 1000


def test_what_expands_into_all_memory_is_not_expanded(tmp_path, monkeypatch):
    from art_sensreg.utils import npz

    zeros = member(np.zeros((20_000, 28, 28), np.uint8))  # 16 MB in 16 kB
    archive(tmp_path / "own.npz", x_train=zeros, y_train=member(np.arange(20_000) % 10))
    monkeypatch.setattr(npz, "_LARGE", 10_000_000)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *args, **kwargs: pytest.fail("expanded"))
    with pytest.raises(ValueError, match="bytes expand to"):
        load_dataset(str(tmp_path / "own.npz"))
    monkeypatch.setattr(npz, "available_memory", lambda: 20_000_000)
    with pytest.raises(ValueError, match="memory is too small"):
        load_dataset(str(tmp_path / "own.npz"))


def test_a_size_that_the_archive_belies(tmp_path):
    """The directory tells of more bytes than the member holds."""
    archive(tmp_path / "own.npz", zipfile.ZIP_STORED)
    data = bytearray((tmp_path / "own.npz").read_bytes())
    place = data.index(b"PK\x01\x02") + 24
    data[place : place + 4] = struct.pack("<I", 2**31)
    (tmp_path / "own.npz").write_bytes(data)
    with pytest.raises(ValueError, match="cannot be used"):
        load_dataset(str(tmp_path / "own.npz"))


def test_a_terabyte_of_nothing(tmp_path):
    with open(tmp_path / "own.npz", "wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(ValueError, match="it is no archive"):
        load_dataset(str(tmp_path / "own.npz"))


def test_a_pipe_and_a_folder_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.npz").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(FileNotFoundError, match=f"there is no file .*{name}.npz"):
            load_dataset(str(tmp_path / f"{name}.npz"))


def test_a_link_that_the_user_names_is_followed(tmp_path):
    archive(tmp_path / "own.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "own.npz")
    assert load_dataset(str(tmp_path / "link.npz")).nb_classes == 3


def test_a_misspelt_name_finds_the_nearest():
    with pytest.raises(ValueError, match=r"Did you mean 'mnist'\?"):
        load_dataset("mnsit")
