"""What is written: JSON that keeps what it was given, and CSV that computes nothing."""

import csv
import json
from dataclasses import replace

import numpy as np

from art_sensreg.benchmark.results.entries import AttackRecord, NotCounted, RandomScores
from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.writing import json_text, plain, results_csv, results_json, write_text
from tests.support.results import case, results, run_record


def test_what_is_written_is_read_again(tmp_path):
    scores = RandomScores(single_draw=0.5, single_draw_spread=0.1, mean=0.5, mean_spread=0.0, repeats=3)
    done = AttackRecord(
        attack="pgd", norm="linf", eps=0.1, robust_accuracy=0.5, n=4, seen=4, mask="masks/a.npz", random=scores
    )
    refused = AttackRecord(attack="square", norm="l1", eps=0.1, status="not_applicable", reason="not in l1")
    run = run_record(attacks=(done, refused), queries=NotCounted(), notes=("one",), more={"mood": "good"})
    first = results(run, options={"sr": {"sigma": (0.1, 0.3)}})
    write_text(tmp_path / "results.json", results_json(first))
    assert read_results(tmp_path / "results.json") == first


def test_what_was_not_measured_is_left_out_of_the_file():
    entry = plain(run_record())
    assert {"audit", "claim", "union", "queries"}.isdisjoint(entry)
    assert entry["step_cost"] is None  # always there


def test_what_json_cannot_hold_is_written_as_what_it_can():
    odd = {"odd": {1, 2}, "number": np.float32(0.5), "nan": float("nan"), "text": "\ud800"}
    found = json.loads(json_text(odd))
    assert (found["number"], found["nan"]) == (0.5, None)
    run = run_record(seed=np.int64(0), clean_accuracy=float("inf"))
    assert json.loads(json_text(run))["clean_accuracy"] is None


def test_an_attack_stands_on_one_line():
    attacks = tuple(AttackRecord(attack="pgd", norm="linf", eps=eps / 100, reason="x" * 80) for eps in range(1, 20))
    lines = results_json(results(run_record(attacks=attacks))).splitlines()
    assert sum('"attack": "pgd"' in line for line in lines) == 19
    assert len(lines) < 60


def test_no_cell_of_the_csv_is_a_formula(tmp_path):
    attack = AttackRecord(
        attack="=cmd|' /C calc'!A0", norm="@SUM(1)", eps=-0.1, mask=None, reason="+1\n-2", more={"\t=name": "-1"}
    )
    text = results_csv(results(run_record(defence="-x", dataset="=1", attacks=(attack,))))
    header, cells = csv.reader(text.splitlines(keepends=True))
    for cell in [*header, *cells]:
        assert "\n" not in cell
        assert cell == "-0.1" or not cell.startswith(("=", "+", "-", "@"))


def test_a_run_without_attacks_has_a_line_of_its_own():
    lines = list(csv.DictReader(results_csv(results(run_record(), replace(run_record(), seed=1))).splitlines()))
    assert [line["seed"] for line in lines] == ["0", "1"]


def test_the_csv_holds_the_worst_case():
    attack = AttackRecord(attack="pgd", norm="linf", eps=0.1, robust_accuracy=0.5, n=200, mask="masks/a.npz")
    lines = list(
        csv.DictReader(results_csv(results(run_record(attacks=(attack,), worst_case=(case(0.4),)))).splitlines())
    )
    assert [(line["attack"], line["robust_accuracy"], line["n"]) for line in lines] == [
        ("pgd", "0.5", "200"), ("worst-case", "0.4", "200")
    ]  # fmt: skip
    assert (lines[1]["ci_low"], lines[1]["ci_high"], lines[0]["ci_low"]) == ("0.0", "1.0", "")
