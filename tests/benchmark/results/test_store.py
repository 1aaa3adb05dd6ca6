import json

import numpy as np

from art_sensreg.benchmark.config.threat_models import Threat, perturbation_size
from art_sensreg.benchmark.results.store import Records
from art_sensreg.utils.stats import wilson_interval

RUN = {
    "defence": "x", "dataset": "d", "seed": 0, "status": "ok", "clean_accuracy": 1.0, "step_cost": 1.0, "attacks": []
}  # fmt: skip


def test_worst_case_is_the_mean_of_minima_and_not_the_minimum_of_means(tmp_path):
    records = Records(tmp_path, {}, "cpu")
    masks = {"a": [1, 1, 0, 0, 1], "b": [0, 1, 1, 0, 1]}
    run = {"attacks": []}
    for name, robust in masks.items():
        path = records.write_mask(("d", name), np.array(robust, bool), np.ones(5, bool))
        run["attacks"].append({"attack": name, "norm": "linf", "eps": 0.1, "mask": path})
    run["attacks"].append({"attack": "failed", "norm": "linf", "eps": 0.1, "mask": None})
    records.summarise(run, (Threat("linf", (0.1, 0.2)),))
    (case,) = run["worst_case"]
    assert case["robust_accuracy"] == 0.4  # each attack alone leaves 0.6
    assert (case["ci_low"], case["ci_high"]) == wilson_interval(2, 5)
    assert case["n"] == 5


def test_the_union_is_what_no_norm_broke(tmp_path):
    records = Records(tmp_path, {}, "cpu")
    run = {"attacks": []}
    outcomes = {
        ("linf", 0.1): ([1, 1, 0, 1, 1], [1, 1, 1, 1, 0]),
        ("l2", 0.5): ([1, 0, 1, 1, 1], [1, 1, 1, 1, 1]),
        ("linf", 0.2): ([0, 0, 0, 0, 0], [1, 1, 1, 1, 1]),
    }
    for (norm, eps), (robust, attacked) in outcomes.items():
        path = records.write_mask((norm, eps), np.array(robust, bool), np.array(attacked, bool))
        run["attacks"].append({"attack": "a", "norm": norm, "eps": eps, "mask": path})
    records.summarise(run, (Threat("linf", (0.1, 0.2)), Threat("l2", (0.5, 1.0))))
    (union,) = run["union"]  # nothing was attacked at the second size of l2
    assert union["eps"] == {"linf": 0.1, "l2": 0.5}
    assert (union["robust_accuracy"], union["n"]) == (0.5, 4)  # the fifth image was not attacked in both norms
    assert (union["ci_low"], union["ci_high"]) == wilson_interval(2, 4)
    assert [case["robust_accuracy"] for case in run["worst_case"]] == [0.75, 0.0, 0.8]


def test_a_record_is_replaced_and_the_file_is_always_whole(tmp_path):
    records = Records(tmp_path, {"a": 1}, "cpu")
    records.put(RUN)
    records.put({**RUN, "clean_accuracy": 0.5})
    data = json.loads((tmp_path / "results.json").read_text())
    assert [entry["clean_accuracy"] for entry in data["runs"]] == [0.5]
    assert data["schema"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_perturbations_that_are_not_finite_count_at_no_eps():
    x = np.zeros((3, 1, 2, 2), np.float32)
    x_adv = x.copy()
    x_adv[0, 0, 0, 0], x_adv[1, 0, 0, 0], x_adv[2] = np.nan, np.inf, 0.5
    assert perturbation_size(x, x_adv, "linf").tolist() == [np.inf, np.inf, 0.5]
    assert perturbation_size(x, x_adv, "l2").tolist() == [np.inf, np.inf, 1.0]


def test_records_stand_in_the_order_of_the_run(tmp_path):
    records = Records(tmp_path, {"defences": ["none", "sr", "jr"]}, "cpu")
    for defence, seed in (("jr", 0), ("none", 1), ("sr", 0), ("none", 0)):
        records.put({**RUN, "defence": defence, "seed": seed})
    assert [(run["defence"], run["seed"]) for run in records.runs] == [("none", 0), ("sr", 0), ("jr", 0), ("none", 1)]
