"""Medians, quartiles and targets of timed repeats."""

from art_sensreg.benchmark.step_cost.timing import summarise


def test_a_target_can_be_another_variant():
    records = [
        {"variant": "jr-projection", "status": "ok", "ratios": [2.0, 2.2, 2.1]},
        {"variant": "hoffman-plain", "status": "ok", "ratios": [2.0]},
    ]
    summarise("mlp", records)
    assert (records[0]["target"], records[0]["target_variant"], records[0]["met"]) == (2.0, "hoffman-plain", False)
    summarise("mlp", records[:1])
    assert (records[0]["target"], records[0]["met"]) == (None, None)
