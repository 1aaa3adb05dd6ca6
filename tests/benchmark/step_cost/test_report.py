"""The stored page of the step cost is that of the stored numbers."""

import json

from art_sensreg.benchmark.results.schema import record
from art_sensreg.benchmark.step_cost.records import StepCostResults
from art_sensreg.benchmark.step_cost.report import step_cost_page
from tests.paths import ROOT


def test_the_stored_page_is_that_of_the_stored_numbers():
    folder = ROOT / "docs" / "results"
    data = json.loads((folder / "step-cost.json").read_text())
    assert (folder / "step-cost.md").read_text() == step_cost_page(record(StepCostResults)(data, ""))
