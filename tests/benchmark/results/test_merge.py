"""Runs of several folders in one table."""

from dataclasses import replace

import pytest

from art_sensreg.benchmark.results.merge import merge_results, repeats_line, repeats_table, source_names
from art_sensreg.benchmark.results.writing import results_json, write_text
from tests.support.results import case, results, run_record


def folder(place, *runs, **changes):
    place.mkdir()
    write_text(place / "results.json", results_json(results(*runs, **changes)))
    return place


def test_defences_and_seeds_of_several_folders_stand_together(tmp_path):
    first = folder(tmp_path / "a", run_record(defence="sr"), run_record(), defences=("sr", "none"))
    second = folder(tmp_path / "b", run_record(defence="jr", seed=1), defences=("jr",), seeds=2)
    merged = merge_results([first, second / "results.json", first])
    assert [run.key for run in merged.results.runs] == [("sr", 0), ("none", 0), ("jr", 1)]
    assert merged.results.config.defences == ("sr", "none", "jr")
    assert merged.results.config.seeds == 2
    assert [source.folder for source in merged.sources] == [first, second]
    assert merged.repeats == ()


def test_what_both_have_is_compared(tmp_path):
    first = folder(tmp_path / "a", run_record(worst_case=(case(0.5), case(0.5, 0.2))))
    second = folder(tmp_path / "b", run_record(worst_case=(case(0.55), case(0.7, 0.2))))
    merged = merge_results([first, second])
    assert [repeat.within_error for repeat in merged.repeats] == [True, False]
    assert merged.results.runs[0].worst_case[0].robust_accuracy == 0.5
    assert repeats_line(merged).startswith("1 of 2 results")
    assert [row[1:] for row in repeats_table(merged).rows] == [
        ["50.0", "55.0", "+5.0", "b", "within the sampling error"],
        ["50.0", "70.0", "+20.0", "b", "NOT within the sampling error"],
    ]


def test_another_machine_is_named(tmp_path):
    first = folder(tmp_path / "a", run_record(worst_case=(case(0.5),)))
    found = replace(results(run_record(worst_case=(case(0.5),))), environment={"processor": "X", "torch": "2.4"})
    write_text(tmp_path / "b.json", results_json(found))
    merged = merge_results([first, tmp_path / "b.json"])
    assert source_names(merged.sources) == ["a", "b.json (X, torch 2.4)"]
    assert repeats_table(merged).rows[0][4] == "b.json (X, torch 2.4)"


def test_fewer_attacks_are_told(tmp_path):
    first = folder(tmp_path / "a", run_record())
    second = folder(tmp_path / "b", run_record(defence="sr"), attacks=("fgm",))
    merged = merge_results([first, second])
    assert merged.results.config.attacks == ("fgm", "pgd")
    assert merged.results.left_out == ("b: without pgd: its worst cases are over fewer attacks",)


def test_other_settings_are_refused(tmp_path):
    first = folder(tmp_path / "a", run_record())
    second = folder(tmp_path / "b", run_record(), epochs=3)
    with pytest.raises(ValueError, match=r"b cannot stand in one table with .*a: `epochs` is 3 there and 2 here"):
        merge_results([first, second])
    with pytest.raises(ValueError, match="empty"):
        merge_results([])
    with pytest.raises(ValueError, match=r"results.json cannot be used"):
        merge_results([tmp_path])


def test_options_come_with_their_defences(tmp_path):
    own = {"sr": {"sigma": 0.1}}
    plain = folder(tmp_path / "a", run_record(), defences=("none",))
    first = folder(tmp_path / "b", run_record(defence="sr"), defences=("sr",), options=own)
    assert merge_results([plain, first]).results.config.options == own
    other = folder(tmp_path / "c", run_record(defence="sr"), defences=("sr",), options={"sr": {"sigma": 0.2}})
    with pytest.raises(ValueError, match="`options` is"):
        merge_results([first, other])
