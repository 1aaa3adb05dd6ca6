"""`gpu.json` and `gpu.md`: a page says what device it is about."""

import json

import pytest

from art_sensreg.benchmark.gpu.records import GpuResults
from art_sensreg.benchmark.gpu.report import page, write_gpu
from art_sensreg.benchmark.results.schema import record
from tests.benchmark.gpu.stand_in import stages
from tests.paths import ROOT


@pytest.mark.parametrize("emulated", [True, False])
def test_the_page(monkeypatch, tmp_path, emulated):
    data = GpuResults(
        emulated=emulated,
        command="python benchmarks/gpu.py",
        environment={"device": "a device", "torch": "2"},
        seconds=1.0,
        stages=stages(monkeypatch),
    )
    paths = write_gpu(data, tmp_path / "out")
    assert record(GpuResults)(json.loads(paths[0].read_text()), "") == data
    text = paths[1].read_text()
    assert text.startswith("# On a GPU\n") != emulated
    assert ("No GPU was available" in text) == emulated
    assert "**timeout**: not done after 1 seconds" in text
    assert "1 passed, 1 failed." in text
    assert "| precision | 1 |" in text


def test_the_stored_page_is_that_of_the_stored_numbers():
    folder = ROOT / "docs" / "results"
    data = record(GpuResults)(json.loads((folder / "gpu.json").read_text()), "")
    assert (folder / "gpu.md").read_text() == page(data)
    assert {stage.status for stage in data.stages} == {"ok"}
    assert all(row["waits"] <= 1 for row in data.stages[1].records if "attack" not in row["what"])
