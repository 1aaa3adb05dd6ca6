"""What the stages of a run are given."""

import numpy as np
import pytest

from art_sensreg.benchmark.config.optimization import OptimizationSettings
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.benchmark.defences.registry import options_of
from art_sensreg.benchmark.engine.context import SuiteContext, TrainedRun, training_spec
from art_sensreg.benchmark.results.store import ResultStore
from tests.benchmark.engine.models import small_target
from tests.support.results import run_record, settings


@pytest.fixture
def run(digits, tmp_path):
    suite = SuiteContext(settings=settings(), dataset=digits, store=ResultStore(tmp_path, settings()))
    return TrainedRun(suite=suite, name="none", seed=0, target=small_target(digits))


def test_every_defence_is_trained_at_the_largest_size(digits):
    spec = training_spec(settings(), digits, seed=3)
    assert (spec.eps, spec.norm, spec.seed) == (0.2, "linf", 3)


def test_a_defence_may_be_optimised_in_another_way(digits):
    chosen = settings(
        optimization=OptimizationSettings(optimizer="sgd", weight_decay=5e-4),
        learning_rate=0.1,
        options={"sr": {"optimizer": "adam", "sigma": 0.2}, "jr": {"learning_rate": 0.3, "schedule": "constant"}},
    )
    given = {name: training_spec(chosen, digits, 0, name) for name in ("none", "sr", "jr")}
    assert (given["none"].optimization, given["none"].learning_rate) == (chosen.optimization, 0.1)
    # The learning rate of the run is SGD's.
    assert given["sr"].optimization.given == {"optimizer": "adam", "weight_decay": 5e-4}
    assert given["sr"].learning_rate == RECIPES["digits"].learning_rate
    assert (given["jr"].optimization.schedule, given["jr"].learning_rate) == ("constant", 0.3)


def test_a_rate_of_its_own_that_is_adams_is_not_sgds():
    names = {"optimization": OptimizationSettings(optimizer="sgd"), "learning_rate": 0.2}
    assert options_of(settings(), "art-trades")["learning_rate"] == 1e-3
    assert options_of(settings(**names), "art-trades")["learning_rate"] == 0.2
    given = settings(**names, options={"art-trades": {"learning_rate": 0.05}})
    assert options_of(given, "art-trades")["learning_rate"] == 0.05


def test_the_record_is_the_one_that_is_stored(run):
    with pytest.raises(AssertionError):
        run.record
    run.suite.store.put(run_record(clean_accuracy=0.5))
    assert run.record.clean_accuracy == 0.5


def test_the_first_images_are_attacked(run, digits):
    x, y = run.images(7)
    assert np.array_equal(x, digits.x_test[:7])
    assert np.array_equal(y, digits.y_test[:7])
    assert len(run.images()[0]) == len(digits.x_test)
