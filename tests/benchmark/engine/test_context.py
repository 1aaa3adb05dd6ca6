"""What the stages of a run are given."""

import numpy as np
import pytest

from art_sensreg.benchmark.engine.context import SuiteContext, TrainedRun, training_spec
from art_sensreg.benchmark.results.store import ResultStore
from tests.benchmark.engine.models import small_target
from tests.benchmark.results.examples import run_record, settings


@pytest.fixture
def run(digits, tmp_path):
    suite = SuiteContext(settings=settings(), dataset=digits, store=ResultStore(tmp_path, settings()))
    return TrainedRun(suite=suite, name="none", seed=0, target=small_target(digits))


def test_every_defence_is_trained_at_the_largest_size(digits):
    spec = training_spec(settings(), digits, seed=3)
    assert (spec.eps, spec.norm, spec.seed) == (0.2, "linf", 3)


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
