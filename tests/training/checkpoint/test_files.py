"""Sealed files: what is damaged is found, and none runs code."""

import os
import pickle
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from art_sensreg.art_bridge import weights
from art_sensreg.training.checkpoint import codec, files, folder
from art_sensreg.training.checkpoint.folder import (
    read_checkpoint,
    write_checkpoint,
)
from tests.training.checkpoint.helpers import FLOATING, SMALL, WHOLE, header, same


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


# Of every byte at least one bit, a different one from byte to byte; the slow tests flip all.
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found(tmp_path, every):
    path = write_checkpoint(tmp_path, 7, SMALL, keep=1)
    assert unnoticed(path, range(0, 8 * path.stat().st_size, every)) == []


def test_flipped_bits_in_a_file_of_all_types_are_found(tmp_path):
    tree = {str(dtype): torch.zeros(50, dtype=dtype) for dtype in WHOLE + FLOATING} | {"empty": torch.empty(0, 4)}
    path = write_checkpoint(tmp_path, 7, tree, keep=1)
    assert unnoticed(path, random.Random(1).sample(range(8 * path.stat().st_size), 1000)) == []


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
        ({"version": None}, "not a checkpoint of art_sensreg"),
        ({"format": "other"}, r"its format is 'other'; expected 'art_sensreg-checkpoint'"),
        ({"format": None}, "not a checkpoint of art_sensreg"),
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


def test_nothing_is_loaded_by_pickle():
    for module in (codec, files, folder, weights):
        source = Path(module.__file__).read_text()
        assert "pickle" not in source
        assert "torch.load" not in source
