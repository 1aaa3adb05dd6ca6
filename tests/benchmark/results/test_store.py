"""The output folder of a run: what is stored there, and in which order."""

import json

from art_sensreg.benchmark.results.reading import read_results
from art_sensreg.benchmark.results.store import ResultStore, environment, environment_line
from tests.support.results import attacked, results, run_record, settings


def test_a_record_is_replaced_and_the_file_is_always_complete(tmp_path):
    store = ResultStore(tmp_path, settings())
    store.put(run_record())
    store.put(run_record(clean_accuracy=0.5))
    data = json.loads((tmp_path / "results.json").read_text())
    assert [entry["clean_accuracy"] for entry in data["runs"]] == [0.5]
    assert data["schema"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_records_stand_in_the_order_of_the_run(tmp_path):
    store = ResultStore(tmp_path, settings())
    for defence, seed in (("jr", 0), ("none", 1), ("sr", 0), ("none", 0)):
        store.put(run_record(defence=defence, seed=seed))
    order = [run.key for run in store.results.runs]
    assert order == [("none", 0), ("sr", 0), ("jr", 0), ("none", 1)]
    assert [run.key for run in read_results(tmp_path / "results.json").runs] == order


def test_an_attack_is_finished_if_its_mask_can_be_read(tmp_path):
    store = ResultStore(tmp_path, settings())
    attack = attacked(tmp_path, "fgm", [1, 0, 1])
    run = run_record(attacks=(attack,))
    assert store.finished(run, attack.key, 3) == attack
    assert store.finished(run, attack.key, 4) is None
    assert store.finished(run, ("pgd", "linf", 0.1, "default"), 3) is None
    (tmp_path / attack.mask).write_bytes(b"cut")
    assert store.finished(run, attack.key, 3) is None


def test_a_process_that_must_not_write_delivers(tmp_path):
    store = ResultStore(tmp_path, settings())
    delivered = []
    store.deliver = delivered.append
    store.put(run_record())
    assert delivered == [run_record()] == list(store.results.runs)
    assert not (tmp_path / "results.json").exists()


def test_of_several_processes_the_others_write_nothing(tmp_path):
    store = ResultStore(tmp_path / "run", settings(), writes=False)
    store.put(run_record())
    assert not (tmp_path / "run").exists()


def test_the_environment_says_which_machine():
    found = environment("cpu")
    assert {"python", "torch", "device", "processor", "instructions", "cores", "threads"} <= set(found)
    assert all(found.values())
    assert environment_line({"python": "3", "processor": "a|b"}) == "Environment: python 3, processor a\\|b."


def test_a_run_that_goes_on_keeps_the_defences_and_options_of_before(tmp_path):
    before = results(run_record(defence="sr"), defences=("sr",), options={"sr": {"sigma": 0.2}})
    config = ResultStore(tmp_path, settings(defences=("none",)), before).results.config
    assert (config.defences, config.options) == (("sr", "none"), {"sr": {"sigma": 0.2}})
