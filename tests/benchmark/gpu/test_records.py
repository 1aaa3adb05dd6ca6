"""What `gpu.json` holds."""

import json

import pytest

from art_sensreg.benchmark.gpu.records import GpuResults
from art_sensreg.benchmark.results.schema import Unfit, record
from art_sensreg.benchmark.results.writing import json_text
from tests.paths import ROOT

STORED = ROOT / "docs" / "results" / "gpu.json"


def test_the_stored_file_is_read_and_written_as_it_was():
    assert json_text(record(GpuResults)(json.loads(STORED.read_text()), "")) == STORED.read_text()


def test_an_unknown_status_is_refused():
    data = json.loads(STORED.read_text())
    data["stages"][0]["status"] = "fine"
    with pytest.raises(Unfit, match=r"stages\[0\].status"):
        record(GpuResults)(data, "")
