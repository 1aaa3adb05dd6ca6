"""What every defence is trained with: weights, schedule, labels, the unit of the step cost."""

from dataclasses import replace

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg import SensRegClassifier, SensRegTrainer
from tests.benchmark.defences.from_art.training import accuracy, small_spec


def test_every_model_of_a_seed_has_the_same_initial_weights(digits):
    spec = small_spec(digits)
    first, second = spec.new_model().state_dict(), spec.art_classifier().model.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    other = replace(spec, seed=1).new_model().state_dict()
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_one_hot_labels_and_the_number_of_steps(digits):
    spec = small_spec(digits, n=33, epochs=3, batch_size=32)
    assert spec.one_hot.shape == (33, 10)
    assert np.array_equal(spec.one_hot.argmax(axis=1), spec.dataset.y_train)
    assert spec.steps == 3 * 2


def test_arts_classifiers_are_arts_own_with_adam_or_sgd(digits):
    spec = small_spec(digits)
    plain = spec.art_classifier(learning_rate=0.5)
    assert type(plain) is PyTorchClassifier
    assert (type(plain.optimizer), plain.optimizer.param_groups[0]["lr"]) == (torch.optim.Adam, 0.5)
    assert type(spec.art_classifier(sgd=0.1).optimizer) is torch.optim.SGD
    assert type(spec.classifier()) is SensRegClassifier


def test_a_trainer_of_this_package_follows_the_one_cycle_schedule(digits):
    spec = small_spec(digits)
    classifier = spec.fit(SensRegTrainer(spec.classifier(), [], spec.config()))
    assert accuracy(spec, classifier.model) > 0.5
    assert len(spec.history) == spec.epochs
    assert classifier.optimizer.param_groups[0]["lr"] < 1e-4 * spec.learning_rate * 100
