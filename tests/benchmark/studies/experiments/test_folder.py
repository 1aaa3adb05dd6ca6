"""The folder of an experiment: packed checkpoints, locks, and records of other settings."""

from dataclasses import replace

import pytest

from art_sensreg.benchmark.studies.experiments.folder import ExperimentFolder, cell_name
from tests.benchmark.studies.small_experiment import laboratory, run


def test_a_packed_checkpoint_has_the_same_bytes(tmp_path):
    folder = ExperimentFolder(tmp_path)
    file = tmp_path / "checkpoints" / f"{cell_name('sr+jr', 1)}.safetensors"
    folder.pack("sr+jr", 1)
    file.write_bytes(b"weights" * 100)
    folder.pack("sr+jr", 1)
    packed = file.with_suffix(".safetensors.gz")
    assert packed.stat().st_size < 100
    first = packed.read_bytes()
    folder.pack("sr+jr", 1)
    assert packed.read_bytes() == first  # no time of day in it
    file.unlink()
    folder.unpack("sr+jr", 1)
    assert file.read_bytes() == b"weights" * 100


def test_records_of_other_settings_are_refused(tmp_path):
    run(tmp_path, rows=("none",), kinds=("train",))
    lab = laboratory(tmp_path)
    row = lab.rows[0]
    assert lab.cell(row, 0).trained
    with pytest.raises(ValueError, match=r"none-seed0.json was made with other settings: `epochs` was 4 and is now 5"):
        lab.cell(replace(row, settings={"epochs": 5}), 0)
    assert [found.runs[0].key for found in lab.folder.results()] == [("none", 0)]
    assert lab.folder.run("none", 1) is None


def test_the_time_of_an_unfinished_training_is_kept(tmp_path):
    folder = ExperimentFolder(tmp_path)
    assert folder.spent("sr", 0) == 0.0
    folder.put_spent("sr", 0, 2.5)
    assert ExperimentFolder(tmp_path).spent("sr", 0) == 2.5
    folder.put_spent("sr", 0, None)
    assert folder.spent("sr", 0) == 0.0


def test_a_row_is_taken_once(tmp_path):
    one, other = ExperimentFolder(tmp_path), ExperimentFolder(tmp_path)
    with one.taken("sr", 0) as first, other.taken("sr", 0) as second, other.taken("sr", 1) as third:
        assert (first, second, third) == (True, False, True)
    with other.taken("sr", 0) as again:
        assert again
