"""What `step-cost.json` holds: medians, quartiles and targets of timed repeats."""

import json

from art_sensreg.benchmark.results.schema import record
from art_sensreg.benchmark.results.writing import json_text
from art_sensreg.benchmark.step_cost.records import StepCostResults, VariantRecord, summarised
from tests.paths import ROOT


def timed(variant, *ratios):
    return VariantRecord(variant=variant, unit="epoch", ratios=ratios)


def test_a_target_can_be_another_variant():
    projection, hoffman = timed("jr-projection", 2.0, 2.2, 2.1), timed("hoffman-plain", 2.0)
    found, _ = summarised("mlp", [projection, hoffman])
    assert (found.target, found.target_variant, found.met) == (2.0, "hoffman-plain", False)
    (alone,) = summarised("mlp", [projection])
    assert (alone.target, alone.met) == (None, None)


def test_quartiles_are_those_of_the_ratios_of_what_ran():
    (found,) = summarised("mlp", [timed("plain", 1.0, 2.0, 3.0, 4.0, 5.0)])
    assert (found.ratio, found.quartiles) == (3.0, (2.0, 4.0))
    (failed,) = summarised("mlp", [VariantRecord(variant="plain", unit="epoch", status="error", ratios=(1.0,))])
    assert (failed.ratio, failed.quartiles, failed.met) == (None, None, None)


def test_the_stored_file_is_read_and_written_as_it_was():
    text = (ROOT / "docs" / "results" / "step-cost.json").read_text()
    assert json_text(record(StepCostResults)(json.loads(text), "")) == text
