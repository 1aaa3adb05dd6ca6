"""Successive halving: the draws, the ranking, the rounds, and the file of trials."""

import json
from dataclasses import replace

import numpy as np
import pytest

from art_sensreg.benchmark.config import SuiteRequest
from art_sensreg.benchmark.studies import halving
from art_sensreg.benchmark.studies.halving import Search, Trial, Trials, draws, ranked, search_settings, trials_table
from tests.benchmark.runs import raising, replaced

SEARCH = Search(request=SuiteRequest(dataset="digits", eps=((0.1, 0.2),), epochs=12), trials=4)


def trial(number, clean, *shares, round=0, **options):
    robust = {f"linf 0.{place}": share for place, share in enumerate(shares, 1)}
    return Trial(
        defence="jr", number=number, round=round, epochs=3, options=options, clean=clean, robust=robust or None
    )  # fmt: skip


def test_every_defence_gets_as_many_trials_that_depend_on_nothing_else():
    for name in ("jr", "sr+jr", "at", "n-fgsm"):
        found = draws(SEARCH, name)
        assert len(found) == 4
        assert found[0] == {}
        assert len({json.dumps(options) for options in found}) == 4
        assert draws(SEARCH, name) == found
        more = Search(request=SEARCH.request, trials=6)
        assert draws(more, name)[:4] == found
    assert SEARCH.epochs == (3, 6, 12)
    assert Search(request=SuiteRequest(epochs=2)).epochs == (1, 1, 2)
    with pytest.raises(ValueError, match="`defence` is 'magic'"):
        draws(SEARCH, "magic")


def test_trials_that_lose_clean_accuracy_rank_after_all_others():
    found = [trial(0, 0.97, 0.9), trial(1, 0.99, 0.5), trial(2, 0.98, 0.6), trial(3, None)]
    assert [one.number for one in ranked(found)] == [2, 1, 0, 3]
    assert trial(0, 0.9, 0.5, 0.7).score == pytest.approx(0.6)


def test_the_better_half_goes_on_with_twice_the_epochs(tmp_path, monkeypatch):
    asked = []

    def measured(search, trials, out, minutes, say):
        asked.append([(one.number, one.epochs) for one in trials])
        # The second trial wins at once; the third one is good with many epochs only.
        value = {0: 0.5, 1: 0.6, 2: 0.55, 3: 0.1}
        share = {one.number: value[one.number] + 0.2 * (one.number == 2 and one.epochs == 12) for one in trials}
        return [
            Trial(**{**vars(one), "clean": 0.99, "robust": {"linf 0.1": share[one.number]}}) for one in trials
        ]  # fmt: skip

    monkeypatch.setattr(halving, "_measured", measured)
    best = search_settings(SEARCH, "jr", tmp_path)
    assert asked == [[(0, 3), (1, 3), (2, 3), (3, 3)], [(1, 6), (2, 6)], [(1, 12)]]
    assert (best.number, best.round, best.options) == (1, 2, draws(SEARCH, "jr")[1])
    # Nothing is done twice, and what is missing of a round is made up for.
    assert search_settings(SEARCH, "jr", tmp_path) == best
    stored = json.loads((tmp_path / "trials.json").read_text())
    del stored["trials"][2:]
    (tmp_path / "trials.json").write_text(json.dumps(stored))
    asked.clear()
    assert search_settings(SEARCH, "jr", tmp_path) == best
    assert asked == [[(2, 3), (3, 3)], [(1, 6), (2, 6)], [(1, 12)]]
    monkeypatch.setattr(halving, "_measured", lambda *given: [])
    assert search_settings(SEARCH, "sr", tmp_path) is None
    # What was drawn from other spaces is not ranked with what is drawn now.
    stored["trials"][1]["options"]["jr_weight"] = 7.0
    (tmp_path / "trials.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"another search space: trial 1 of jr had the options .*7\.0"):
        search_settings(SEARCH, "jr", tmp_path)


def test_steps_are_drawn_around_those_of_the_defence():
    more = Search(request=SEARCH.request, trials=40)
    for name in ("carried", "carried+sr+jr", "free+sr+jr"):
        options = halving._defaults(more, name)
        default = halving.DEFENCES[name].adversary(options).step
        steps = [one["eps_step"] / default for one in draws(more, name)[1:]]
        assert 0.1 <= min(steps) < 1 < max(steps) <= 2


def test_a_short_round_replays_batches_as_often_as_it_has_epochs(tmp_path, monkeypatch):
    asked = []

    def measured(search, trials, out, minutes, say):
        asked.extend(trials)
        return [Trial(**{**vars(one), "clean": 0.9, "robust": {"linf 0.1": 0.5}}) for one in trials]

    monkeypatch.setattr(halving, "_measured", measured)
    search_settings(SEARCH, "free", tmp_path)
    for one in asked:
        wanted = draws(SEARCH, "free")[one.number].get("replays", 4)
        assert one.options.get("replays", 4) == min(wanted, one.epochs)


def test_a_search_in_which_nothing_can_be_trained_says_why(tmp_path):
    request = SuiteRequest(dataset="digits", eps=((0.1,),), norms=("l2",), epochs=1, train_size=60)
    best = search_settings(
        Search(request=request, trials=2, rounds=1, points=10), "fgsm-rs", tmp_path, say=lambda line: None
    )
    assert (best.clean, best.robust, best.crashed) == (None, None, False)
    assert "linf" in best.reason


def test_a_trial_that_crashed_is_tried_again_by_the_next_call(tmp_path, monkeypatch):
    asked = []

    def measured(search, trials, out, minutes, say):
        asked.append([(one.number, one.round) for one in trials])
        return [
            replace(one, reason="no memory", crashed=True)
            if broken and one.number == 3
            else replace(one, clean=0.9, robust={"linf 0.1": one.number / 10})
            for one in trials
        ]

    monkeypatch.setattr(halving, "_measured", measured)
    broken = True
    assert search_settings(SEARCH, "jr", tmp_path).number == 2
    broken = False
    assert search_settings(SEARCH, "jr", tmp_path).number == 3  # the best of all, now that it can be trained
    assert asked == [[(0, 0), (1, 0), (2, 0), (3, 0)], [(2, 1), (1, 1)], [(2, 2)], [(3, 0)], [(3, 1)], [(3, 2)]]
    assert [(one.number, one.crashed) for one in Trials(tmp_path / "trials.json", SEARCH.protocol()).of("jr", 0)] == [
        (0, False), (1, False), (2, False), (3, False)
    ]  # fmt: skip


def test_what_crashes_is_told_from_what_does_not_apply(tmp_path, monkeypatch):
    request = SuiteRequest(dataset="digits", eps=((0.1,),), epochs=1, train_size=60)
    search = Search(request=request, trials=1, rounds=1, points=10)
    with monkeypatch.context() as patch:
        replaced(patch, "jr", training=raising(MemoryError("no memory")))
        broken = search_settings(search, "jr", tmp_path, say=lambda line: None)
    assert (broken.clean, broken.crashed) == (None, True)
    assert "no memory" in broken.reason
    no_time = {"minutes": 1e-9, "say": lambda line: None}
    assert search_settings(search, "jr", tmp_path, **no_time) is None
    assert search_settings(search, "jr", tmp_path, say=lambda line: None).clean is not None


def test_trials_of_another_search_are_refused(tmp_path):
    Trials(tmp_path / "trials.json", SEARCH.protocol()).add([trial(0, 0.9, 0.5)])
    other = Search(request=SEARCH.request, trials=5)
    with pytest.raises(ValueError, match="has trials of another search: `trials` was 4 and is now 5"):
        Trials(tmp_path / "trials.json", other.protocol())
    assert Trials(tmp_path / "trials.json", SEARCH.protocol()).of("jr", 0) == [trial(0, 0.9, 0.5)]


def test_trials_on_other_images_of_the_same_name_are_refused(tmp_path):
    def written(seed):
        rng = np.random.default_rng(seed)
        x, y = rng.random((60, 4, 4), dtype=np.float32), np.arange(60) % 3
        np.savez(tmp_path / "own.npz", x_train=x, y_train=y, x_test=x[:20], y_test=y[:20])
        return Search(request=SuiteRequest(dataset=str(tmp_path / "own.npz"), eps=((0.1,),), model="mlp", epochs=1))

    Trials(tmp_path / "trials.json", written(0).protocol()).add([trial(0, 0.9, 0.5)])
    assert Trials(tmp_path / "trials.json", written(0).protocol()).found
    with pytest.raises(ValueError, match="has trials of another search: `data_crc32` was"):
        Trials(tmp_path / "trials.json", written(1).protocol())


def test_the_table_shows_the_last_round_first():
    table = trials_table(
        [trial(0, 0.99, 0.5), trial(1, 0.99, 0.6, weight=2.0), trial(1, 0.98, 0.7, round=1, weight=2.0)]
    )
    assert table.header == ["trial", "epochs", "weight", "clean %", "linf 0.1: %", "mean"]
    assert table.rows == [
        ["1", "3", "2.0", "98.00", "70.0", "70.0"],
        ["1", "3", "2.0", "99.00", "60.0", "60.0"],
        ["0", "3", "default", "99.00", "50.0", "50.0"],
    ]
