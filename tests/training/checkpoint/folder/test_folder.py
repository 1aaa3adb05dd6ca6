"""Checkpoints in a folder: the newest are kept, and a failure leaves those before."""

import errno
import logging
import os

import pytest
import torch

from art_sensreg.training.checkpoint.folder import (
    check_folder,
    list_checkpoints,
    read_checkpoint,
    read_newest,
    write_checkpoint,
)
from tests.training.checkpoint.helpers import SMALL, names, same, steps


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("step", -1, ValueError), ("step", 1.5, TypeError), ("keep", 0, ValueError), ("keep", None, TypeError)],
)
def test_steps_and_keep_are_whole_numbers(tmp_path, name, value, error):
    with pytest.raises(error, match=f"`{name}`"):
        write_checkpoint(tmp_path, **{"step": 1, "tree": {}, "keep": 1, name: value})


@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling link", "sparse"])
def test_what_is_no_file_of_checkpoints_is_passed_over_without_waiting(tmp_path, kind):
    good = write_checkpoint(tmp_path, 1, "fine", keep=2)
    path = tmp_path / "checkpoint-000000002.safetensors"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes(good.read_bytes())
        os.truncate(path, 2**40)
    with pytest.raises(ValueError if kind == "sparse" else OSError) as caught:
        read_checkpoint(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_newest(tmp_path) == (good, "fine")


@pytest.mark.parametrize("name", ["checkpoint-000000002.safetensors", "checkpoint-000000002.safetensors.part"])
def test_links_are_not_written_through(tmp_path, name):
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.write_text("mine")
    (folder / name).symlink_to(other)
    if name.endswith(".part"):
        assert read_checkpoint(write_checkpoint(folder, 2, "new", keep=1)) == (2, "new")
    else:
        with pytest.raises(FileExistsError, match=r"step 2 could not be written .*is not a regular file"):
            write_checkpoint(folder, 2, "new", keep=1)
    assert other.read_text() == "mine"


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
@pytest.mark.parametrize("name", ["checkpoint-000000009.safetensors", "checkpoint-probe.safetensors.part"])
def test_a_folder_is_looked_at_before_a_run(tmp_path, name, kind):
    """Neither is a link followed nor a pipe waited for: the run is refused, or the stale part is replaced."""
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.write_text("mine")
    if kind == "link":
        (folder / name).symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).mkdir()
    if name.endswith(".part") and kind != "folder":
        assert check_folder(folder) == folder
        assert names(folder) == []
    else:
        with pytest.raises(OSError, match=r"`checkpoint_dir` (holds|is)") as stop:
            check_folder(folder)
        assert "\n" not in str(stop.value)
    assert other.read_text() == "mine"


def test_the_newest_ones_are_kept_and_other_files_ignored(tmp_path):
    others = ["best.safetensors", "checkpoint-1.safetensors", "checkpoint-000000009.txt", "notes.part", "events.jsonl"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / "checkpoint-000000077.safetensors.part").write_text("stale")
    for step in (0, 5, 100, 20_000, 10**9):
        write_checkpoint(tmp_path, step, {"step": step}, keep=3)
    assert steps(tmp_path) == [10**9, 20_000, 100]
    assert set(others) == set(names(tmp_path)) - {path.name for path in list_checkpoints(tmp_path)}
    path, tree = read_newest(tmp_path)
    assert (path.name, tree) == ("checkpoint-1000000000.safetensors", {"step": 10**9})


def test_the_same_step_is_replaced(tmp_path):
    for text in ("first", "second"):
        write_checkpoint(tmp_path, 3, text, keep=2)
    assert [read_checkpoint(path) for path in list_checkpoints(tmp_path)] == [(3, "second")]


def test_a_run_that_went_on_from_an_earlier_step_keeps_what_it_writes(tmp_path):
    for step in (1, 2, 9):
        write_checkpoint(tmp_path, step, step, keep=3)
    damage(tmp_path / "checkpoint-000000009.safetensors")
    for step in (3, 4):
        write_checkpoint(tmp_path, step, step, keep=1)
    assert steps(tmp_path) == [9, 4]
    assert read_newest(tmp_path)[1] == 4


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)


def test_a_damaged_one_is_reported_and_the_one_before_it_used(tmp_path, caplog):
    files = [write_checkpoint(tmp_path, step, [torch.full((2,), float(step))], keep=9) for step in (1, 2, 3, 4)]
    damage(files[3])
    files[2].write_bytes(files[2].read_bytes()[:100])
    path, tree = read_newest(tmp_path)
    assert path == files[1]
    assert same(tree, [torch.tensor([2.0, 2.0])])
    found = [(record.name, record.levelno, record.getMessage()) for record in caplog.records]
    assert [entry[:2] for entry in found] == [("art_sensreg.training.checkpoint.folder", logging.WARNING)] * 2
    assert str(files[3]) in found[0][2]
    assert "the checksums of its tensors do not match, so it is damaged; the one before it, " in found[0][2]
    assert "checkpoint-000000003.safetensors, is used." in found[0][2]
    assert "it is truncated" in found[1][2]


def test_what_cannot_be_opened_is_passed_over_too(tmp_path, caplog):
    write_checkpoint(tmp_path, 1, "fine", keep=2)
    (tmp_path / "checkpoint-000000002.safetensors").mkdir()
    assert read_newest(tmp_path)[1] == "fine"
    assert "checkpoint-000000002" in caplog.text


def test_all_damaged_is_an_error_naming_each(tmp_path, caplog):
    for step in (1, 2):
        damage(write_checkpoint(tmp_path, step, [torch.ones(1)], keep=2))
    with pytest.raises(ValueError, match=r"No checkpoint in .*checkpoint-000000002.*checkpoint-000000001"):
        read_newest(tmp_path)
    assert "there is none before it" in caplog.text


def test_none_at_all_is_none(tmp_path):
    (tmp_path / "checkpoint-000000001.safetensors.part").write_text("half")
    assert read_newest(tmp_path) is None
    assert list_checkpoints(tmp_path) == []
    assert read_newest(tmp_path / "missing") is None
    assert list_checkpoints(tmp_path / "missing") == []


def test_what_cannot_be_removed_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    (tmp_path / "checkpoint-000000001.safetensors").mkdir()
    write_checkpoint(tmp_path, 2, SMALL, keep=1)
    assert steps(tmp_path) == [2, 1]
    assert "checkpoint-000000001.safetensors' could not be removed" in caplog.text


def test_a_folder_is_made_and_left_empty(tmp_path):
    folder = check_folder(str(tmp_path / "runs" / "first"))
    assert folder == check_folder(folder) == tmp_path / "runs" / "first"
    assert names(folder) == []


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_a_file_in_place_of_a_folder(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match=r"`checkpoint_dir` is '.*file.*expected a folder") as caught:
        check_folder(tmp_path / "file" / below)
    assert caught.value.errno == errno.ENOTDIR
    assert (tmp_path / "file").read_text() == "mine"
