"""The declared experiments: names that can be files, and the sizes that were promised."""

import pytest

from art_sensreg.benchmark.studies.experiments import EXPERIMENTS
from art_sensreg.benchmark.studies.experiments.named import MNIST


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda one: one.name)
def test_rows_have_names_of_their_own(experiment):
    names = [row.name for row in experiment.rows]
    assert len(set(names)) == len(names)
    assert experiment.out.name in EXPERIMENTS
    assert all(row.seeds <= experiment.seeds for row in experiment.rows)
    assert all(row.points <= 20 for row in experiment.tiny().rows)


def test_mnist_is_measured_as_declared():
    names = {row.name for row in MNIST.rows}
    assert names == {
        "none", "sr", "jr", "sr+jr", "sr+jr-cheap", "carried", "carried+sr+jr", "free+sr+jr", "fgsm-rs", "n-fgsm+sr+jr",
        "fbf", "at", "trades", "ibp", "carried+sr+jr_long", "sr+jr_long",
        "carried+sr+jr_decay", "carried_decay", "carried+sr+jr_weak-decay", "carried_weak-decay",
        "carried+sr+jr_medium", "carried_medium", "at_medium", "trades_medium", "carried+sr+jr_medium-long",
        "carried+sr+jr_medium-adam", "carried_medium-adam", "carried+sr+jr_adam", "carried_adam", "free+sr+jr_adam",
        "sr+jr_sgd", "sr+jr_short", "carried+sr+jr_small-steps", "carried+sr+jr_half-steps",
        "carried+sr+jr_full-size", "carried_full-size", "carried+sr+jr_third",
        "sr+jr_gaussian", "sr+jr-cheap_gaussian",
    }  # fmt: skip
    assert all(row.points == 1000 for row in MNIST.rows if row.headline)
    assert MNIST.request.eps == ((0.1, 0.2, 0.3), (1.0, 1.5, 2.0))
    assert MNIST.request.budget == "full"
    assert MNIST.request.train_size is None
    assert {row.name for row in MNIST.rows if row.headline and row.seeds < 3} == {"free+sr+jr_adam"}
