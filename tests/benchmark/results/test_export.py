"""The table in other forms."""

import csv
import io
import json
from dataclasses import replace

import pytest

from art_sensreg.benchmark.results.entries import AttackRecord, AuditRecord
from art_sensreg.benchmark.results.export import EXPORTS, csv_table, latex_table, robustbench_entries, write_exports
from art_sensreg.benchmark.results.writing import results_json, write_text
from tests.support.results import case, results, run_record


def official(n=200, share=0.4):
    return AttackRecord(attack="autoattack", norm="linf", eps=0.1, robust_accuracy=share, n=n, mask="masks/a.npz")


def test_latex_escapes_what_it_is_given():
    text = latex_table(results(run_record(defence="a_b", status="error", reason="50% & {x}", clean_accuracy=None)))
    assert r"a\_b & - & - & - & - & - & - & failed: 50\% \& \{x\} \\" in text
    assert text.count("&") - text.count(r"\&") == 2 * 7
    assert r"\begin{tabular}{lrrrrrrl}" in text


def test_csv_has_numbers_and_no_formulas():
    run = run_record(defence="sr", worst_case=(case(0.5),), audit=AuditRecord(verdict="=1+1", checks=()))
    (line,) = csv.DictReader(io.StringIO(csv_table(results(run))))
    assert (line["defence"], float(line["robust_accuracy"]), int(line["n"])) == ("sr", 0.5, 200)
    assert line["audit"] == "'=1+1"


@pytest.mark.parametrize(
    ("budget", "attack", "expected"),
    [("full", official(), "40.00"), ("smoke", official(), None), ("full", official(n=50), None)],
)
def test_only_autoattack_on_all_images_at_full_budget_is_called_so(budget, attack, expected):
    run = run_record(defence="sr", worst_case=(case(0.35),), attacks=(attack,))
    entries = robustbench_entries(results(run, budget=budget, attacks=("autoattack",)))
    (name,) = entries
    entry = entries[name]
    assert name == "sr-seed0-linf-0.1"
    assert (entry["autoattack_acc"], entry["external"], entry["clean_acc"]) == (expected, "35.00", "90.00")
    assert {"link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture",
            "eps", "reported", "footnote", "unreliable"} <= set(entry)  # fmt: skip


def test_files_are_written_for_each_form(tmp_path):
    write_text(tmp_path / "results.json", results_json(results(run_record(worst_case=(case(0.5),)))))
    paths = write_exports([tmp_path], tmp_path / "out", EXPORTS)
    names = ["table.tex", "table.md", "table.csv", "robustbench/none-seed0-linf-0.1.json"]
    assert [str(path.relative_to(tmp_path / "out")) for path in paths] == names
    assert json.loads(paths[-1].read_text())["dataset"] == "digits"
    assert paths[1].read_text().startswith("| defence |")
    with pytest.raises(ValueError, match="--export"):
        write_exports([tmp_path], tmp_path, ["pdf"])


def test_a_failed_audit_is_unreliable():
    run = run_record(worst_case=(case(0.5),), audit=AuditRecord(verdict="do not trust: x", checks=()))
    (entry,) = robustbench_entries(results(run)).values()
    assert entry["unreliable"]
    (entry,) = robustbench_entries(results(replace(run, audit=None))).values()
    assert not entry["unreliable"]
