"""The pages of an experiment: made from its records, with the costs that were measured."""

import json
from dataclasses import replace

from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.studies.experiments.pages import (
    ablation_table,
    collected,
    gain_table,
    progress_table,
    write_pages,
)
from tests.benchmark.studies.small_experiment import SMALL, laboratory, run


def test_pages_show_how_far_an_experiment_is(tmp_path):
    assert write_pages(laboratory(tmp_path)) == []
    run(tmp_path, rows=("none", "sr+jr"), seeds=(0,), kinds=("train", "attack", "aimed"))
    (tmp_path / "costs" / "sr+jr.json").write_text(
        json.dumps({"step_cost": 2.25, "rounds": [{"ratio": ratio} for ratio in (2.0, 2.25, 2.5)]})
    )
    lab = laboratory(tmp_path)
    paths = write_pages(lab)
    assert [path.name for path in paths] == ["results.json", "report.md", "robustness-linf.png"]
    stored = read_results(paths[0])
    assert stored.run("sr+jr", 0).step_cost == 2.25
    assert stored.run("sr+jr", 0).step_cost_repeats == (2.0, 2.25, 2.5)  # the interval is that of the same rounds
    assert stored.left_out == ("magic: there is no defence 'magic' in this version.",)
    text = paths[1].read_text()
    assert "magic: there is no defence" in text
    assert "| sr+jr |" in text
    how = "Trained for 4 epochs, with the suite's defaults but for these rows:\n\n- sr+jr_light: epochs 2, sigma 0.1\n"
    assert how in text
    results = collected(lab)
    assert results.config.options == {"sr+jr_light": {"sigma": 0.1}}
    assert progress_table(results).rows == [["none", "1", "30", "30"], ["sr+jr", "1", "45", "45"]]
    (gains,) = gain_table(results).rows
    run_ = results.run("sr+jr", 0)
    left, aimed = (next(a for a in run_.attacks if a.threat == ("linf", 0.05) and a.attack == name)
                   for name in ("autoattack", "hidden-away"))  # fmt: skip
    broken = round((left.robust_accuracy - aimed.robust_accuracy) * 45)
    assert gains[:2] == ["sr+jr (seed 0)", "linf 0.05"]
    assert gains[3:5] == [str(broken), f"{broken} of 12"]
    assert gains[5] == f"{100 * broken / 12 * left.robust_accuracy:.1f}"
    # Shares of different images are not compared: here AutoAttack has gone on since.
    fewer = replace(run_, attacks=tuple(replace(one, n=20) if one == aimed else one for one in run_.attacks))
    assert gain_table(replace(results, runs=(fewer,))).rows == []


def test_variants_stand_against_their_default_image_by_image(tmp_path):
    rows = (SMALL.rows[1], replace(SMALL.rows[2], of="sr+jr", points=45))
    ablation = replace(SMALL, rows=rows, aimed=())
    run(tmp_path, ablation, seeds=(0,), kinds=("train", "attack"))
    lab = laboratory(tmp_path, ablation)
    results = collected(lab)
    table = ablation_table(lab, results)
    assert [row[:3] for row in table.rows] == [["sr+jr_light", "sr+jr", eps] for eps in ("0.02", "0.05")]
    for row in table.rows:
        shares = [
            100 * next(case.robust_accuracy for case in results.run(name, 0).worst_case if f"{case.eps:g}" == row[2])
            for name in ("sr+jr", "sr+jr_light")
        ]
        assert row[3:5] == [f"{share:.2f}" for share in shares]
        assert row[5].startswith(f"{shares[1] - shares[0]:+.2f} [")
    assert "## Variants, image by image" in (tmp_path / "report.md").read_text()


def test_pages_of_shared_models_show_explanations_only(tmp_path):
    """What attacks left of the same models stands in the pages of the experiment that attacks them."""
    run(tmp_path, rows=("none", "sr+jr"), kinds=("train",))
    run(tmp_path, rows=("sr+jr",), seeds=(0,), kinds=("attack",))
    rows = tuple(replace(row, points=0) for row in SMALL.rows[:2])
    shared = replace(SMALL, name="why", rows=rows, aimed=(), explained=True, folder="small")
    run(tmp_path, shared, kinds=("explain",))
    paths = write_pages(laboratory(tmp_path, shared))
    assert [path.name for path in paths] == ["results-why.json", "report-why.md"]
    text = paths[1].read_text()
    assert "| score | better | none (1) | sr+jr (2) |" in text
    assert "robust" not in text
    assert "worst case" not in text.lower()
    runs = read_results(paths[0]).runs
    assert all(one.explanations and not one.attacks and not one.worst_case for one in runs)
    # Nor do they change those of the other.
    assert collected(laboratory(tmp_path)).run("sr+jr", 0).worst_case
