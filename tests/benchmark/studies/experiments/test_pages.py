"""The pages of an experiment: made from its records, with the costs that were measured."""

import json

from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.studies.experiments.pages import collected, gain_table, progress_table, write_pages
from tests.benchmark.studies.experiments.small import laboratory, run


def test_pages_show_how_far_an_experiment_is(tmp_path):
    assert write_pages(laboratory(tmp_path)) == []
    run(tmp_path, rows=("none", "sr+jr"), seeds=(0,), kinds=("train", "attack", "aimed"))
    (tmp_path / "costs" / "sr+jr.json").write_text(json.dumps({"step_cost": 2.25}))
    lab = laboratory(tmp_path)
    paths = write_pages(lab)
    assert [path.name for path in paths] == ["results.json", "report.md", "robustness-linf.png"]
    stored = read_results(paths[0])
    assert stored.run("sr+jr", 0).step_cost == 2.25
    assert stored.left_out == ("magic: there is no defence 'magic' in this version.",)
    text = paths[1].read_text()
    assert "magic: there is no defence" in text
    assert "| sr+jr |" in text
    results = collected(lab)
    assert progress_table(results).rows == [["none", "1", "30", "30"], ["sr+jr", "1", "45", "45"]]
    (gains,) = gain_table(results).rows
    run_ = results.run("sr+jr", 0)
    left, aimed = (next(a for a in run_.attacks if a.threat == ("linf", 0.05) and a.attack == name)
                   for name in ("autoattack", "hidden-away"))  # fmt: skip
    broken = round((left.robust_accuracy - aimed.robust_accuracy) * 45)
    assert gains[:2] == ["sr+jr (seed 0)", "linf 0.05"]
    assert gains[3:5] == [str(broken), f"{broken} of 12"]
    assert gains[5] == f"{100 * broken / 12 * left.robust_accuracy:.1f}"
