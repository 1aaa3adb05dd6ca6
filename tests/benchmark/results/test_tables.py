"""The tables of every run."""

from art_sensreg.benchmark.results.entries import AttackRecord, NoiseRecord
from art_sensreg.benchmark.results.summary import Cost
from art_sensreg.benchmark.results.tables import (
    attack_table,
    cost_text,
    explanations,
    noise_table,
    summary_table,
    with_interval,
)
from tests.support.results import case, results, run_record


def test_seeds_share_a_table_row_with_their_mean_and_spread():
    runs = [
        run_record(seed=seed, clean_accuracy=clean, step_cost=2.0, worst_case=(case(worst), case(0.0, 0.2)))
        for seed, clean, worst in ((0, 0.9, 0.5), (1, 1.0, 0.7))
    ]
    table = summary_table(results(*runs, seeds=2))
    (row,) = table.rows
    assert row[:2] == ["none", "95.0 ± 7.1"]
    assert row[2].startswith("60.0 ± 14.1 [")
    assert row[4:] == ["200", "2.0", "1.0", "-"]


def test_what_could_not_run_says_why():
    refused = run_record(defence="jr", status="not_applicable", reason="no norm", clean_accuracy=None)
    found = results(run_record(), refused, run_record(defence="sr", clean_accuracy=None).failed("x", OSError("disk")))
    rows = {row[0]: row[-1] for row in summary_table(found).rows}
    assert rows == {"none": "-", "jr": "not applicable: no norm", "sr": "failed: x: OSError: disk"}
    assert explanations(found) == ["jr (seed 0): not applicable: no norm", "sr (seed 0): failed: x: OSError: disk"]


def attack(name, share, n=5, **entries):
    return AttackRecord(attack=name, norm="linf", eps=0.1, robust_accuracy=share, n=n, mask="masks/a.npz", **entries)


def test_attacks_are_columns_and_ways_of_attacking_are_table_rows():
    both = (attack("fgm", 0.5), attack("fgm", 0.4, view="adaptive"), attack("pgd", 0.3, n=2, view="adaptive"))
    found = results(run_record(), run_record(defence="sr", attacks=both))
    assert attack_table(found, "linf", 0.1).rows == [["sr (adaptive)", "40.0", "30.0*"], ["sr (ART)", "50.0", ""]] or (
        attack_table(found, "linf", 0.1).rows == [["sr (ART)", "50.0", ""], ["sr (adaptive)", "40.0", "30.0*"]]
    )
    failed = run_record(attacks=(AttackRecord(attack="pgd", norm="linf", eps=0.1, status="error"),))
    assert attack_table(results(failed), "linf", 0.1).rows == [["none", "", "failed"]]


def test_attacks_of_seeds_with_fewer_images_are_left_out_of_the_mean():
    runs = [run_record(seed=seed, attacks=(attack("fgm", share, n),)) for seed, share, n in ((0, 0.5, 2), (1, 0.9, 5))]
    assert attack_table(results(*runs, seeds=2), "linf", 0.1).rows[0][1].startswith("90.0")


def test_noise_is_shown_where_it_was_measured():
    noise = (NoiseRecord(norm="linf", eps=0.1, accuracy=0.8, n=5),)
    found = noise_table(results(run_record(), run_record(defence="sr", random_noise=noise)))
    assert found.rows == [["sr", "80.0", "-"]]


def test_without_cases_there_is_a_dash():
    assert with_interval([]) == "-"
    assert with_interval([case(0.5, n=4)]).startswith("50.0 [")
    assert with_interval([case(0.5, n=4), case(0.75, n=8)]).startswith("75.0 [")  # not a mean over different images


def test_attacks_that_were_refused_are_explained_once():
    refused = tuple(
        AttackRecord(attack="square", norm="linf", eps=eps, status="not_applicable", reason="needs square images")
        for eps in (0.1, 0.2)
    )
    found = explanations(results(run_record(attacks=refused, notes=("a note",)), attacks=("square",)))
    assert found == ["none (seed 0): a note", "none (seed 0): square not applicable: needs square images"]


def test_a_star_marks_a_worst_case_that_an_attack_saw_only_a_part_of():
    seen = (
        attack("fgm", 0.5, n=200),
        attack("pgd", 0.4, n=50),
        AttackRecord(attack="square", norm="linf", eps=0.1, status="error"),
    )
    found = results(
        run_record(worst_case=(case(0.5),), attacks=seen), run_record(defence="sr", worst_case=(case(0.6),))
    )
    rows = {row[0]: row[2] for row in summary_table(found).rows}
    assert rows["none"].startswith("50.0* [")
    assert rows["sr"].startswith("60.0 [")
    assert "* none: pgd on the first 50 images, square failed" in explanations(found)


def test_a_cost_has_its_quartiles():
    assert cost_text(None) == "-"
    assert cost_text(Cost(median=2.0)) == "2.0"
    assert cost_text(Cost(median=2.0, low=1.9, high=2.25)) == "2.0 (1.9 to 2.2)"
