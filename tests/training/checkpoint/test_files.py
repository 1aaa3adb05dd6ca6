"""Files of checkpoints: what is damaged is found, and what was there before stays."""

import errno
import io
import logging
import os
import pickle
import random
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from art_sensreg.art_bridge import weights
from art_sensreg.training.checkpoint import codec, files, folder
from art_sensreg.training.checkpoint.codec import unpack
from art_sensreg.training.checkpoint.folder import (
    check_folder,
    list_checkpoints,
    read_checkpoint,
    read_newest,
    write_checkpoint,
)
from tests.training.checkpoint.test_folder import FLOATING, SMALL, WHOLE, header, same


def unnoticed(path, bits):
    """Those bits of the file whose flipping is not found."""
    data = path.read_bytes()
    missed = []
    for bit in bits:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read_checkpoint(path)
        except ValueError as error:
            if str(path) in str(error):
                continue
        missed.append(bit)
    return missed


def test_every_flipped_bit_is_found(tmp_path):
    path = write_checkpoint(tmp_path, 7, SMALL, keep=1)
    assert unnoticed(path, range(8 * path.stat().st_size)) == []


def test_flipped_bits_in_a_file_of_all_types_are_found(tmp_path):
    tree = {str(dtype): torch.zeros(50, dtype=dtype) for dtype in WHOLE + FLOATING} | {"empty": torch.empty(0, 4)}
    path = write_checkpoint(tmp_path, 7, tree, keep=1)
    assert unnoticed(path, random.Random(1).sample(range(8 * path.stat().st_size), 4000)) == []


@pytest.mark.parametrize("tree", [SMALL, {}], ids=["tensors", "no tensors"])
def test_every_truncation_and_everything_appended_is_found(tmp_path, tree):
    path = write_checkpoint(tmp_path, 7, tree, keep=1)
    data = path.read_bytes()
    for cut in [data[:length] for length in range(len(data))] + [data + b" ", data + data, b"\x00" * len(data)]:
        path.write_bytes(cut)
        with pytest.raises(ValueError, match="cannot be read as a checkpoint: "):
            read_checkpoint(path)


def rewritten(path, **changes):
    """The same file with other metadata, as a program of another version would write it."""
    metadata = {**header(path), **changes}
    save_file(load_file(path), path, {name: value for name, value in metadata.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "2"}, r"its version is '2', of a newer art_sensreg or damaged; expected '1'"),
        ({"version": "10"}, r"its version is '10'"),
        ({"version": None}, "no checkpoint of art_sensreg"),
        ({"format": "other"}, r"its format is 'other'; expected 'art_sensreg-checkpoint'"),
        ({"format": None}, "no checkpoint of art_sensreg"),
        ({"step": "8"}, "checksum of its metadata"),
        ({"tree": "[]"}, "checksum of its metadata"),
        ({"tensors": "{}"}, "checksum of its metadata"),
        ({"checksum": None}, "checksum of its metadata"),
        ({"more": "1"}, "checksum of its metadata"),
    ],
)
def test_other_metadata_are_refused(tmp_path, changes, message):
    path = rewritten(write_checkpoint(tmp_path, 7, SMALL, keep=1), **changes)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)


def test_the_rewritten_file_itself_is_fine(tmp_path):
    path = rewritten(write_checkpoint(tmp_path, 7, SMALL, keep=1))
    assert same(read_checkpoint(path), (7, SMALL))


@pytest.mark.parametrize("text", ['{"tensor": "x"}', '{"other": 1}', "{}", '{"tuple": 3}', "[", '{"array": "a"}'])
def test_text_of_others_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        unpack({"a": torch.ones(1)}, text)


class Trap:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["TRAP"])),)


def pickled(path):
    path.write_bytes(pickle.dumps(Trap()))


def saved_by_torch(path):
    torch.save({"trap": Trap()}, path)


def plain_weights(path):
    save_file({"weight": torch.ones(1)}, path)


@pytest.mark.parametrize("write", [pickled, saved_by_torch, plain_weights])
def test_other_files_of_that_name_are_refused_and_run_no_code(tmp_path, monkeypatch, write):
    monkeypatch.setenv("TRAP", str(tmp_path / "trapped"))
    path = tmp_path / "checkpoint-000000001.safetensors"
    write(path)
    with pytest.raises(ValueError, match=r"checkpoint-000000001.safetensors' cannot be read as a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "trapped").exists()


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "checkpoint-000000001.safetensors")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def steps(folder):
    return [int(path.name[11:-12]) for path in list_checkpoints(folder)]


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
        with pytest.raises(FileExistsError, match=r"step 2 could not be written .*is no regular file"):
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
    assert "the checksums of its tensors are others, so it is damaged; the one before it, " in found[0][2]
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


def test_nothing_is_loaded_by_pickle():
    for module in (codec, files, folder, weights):
        source = Path(module.__file__).read_text()
        assert "pickle" not in source
        assert "torch.load" not in source
