"""What every defence is trained with: weights, schedule, labels, the unit of the step cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier

from art_sensreg import SensRegClassifier, SensRegTrainer
from art_sensreg.benchmark.config import OptimizationSettings
from art_sensreg.benchmark.defences import DEFENCES, NotApplicable
from art_sensreg.benchmark.defences.registry import resolve_options
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


def test_an_image_that_batchnorm_would_see_alone_is_left_out(digits):
    assert len(small_spec(digits, n=33).dataset.x_train) == 33
    for name, expected in (("none", 33), ("batch", 32)):
        state = torch.get_rng_state()
        spec = small_spec(digits, n=33, norm_layer=name)
        assert torch.equal(torch.get_rng_state(), state)
        assert len(spec.dataset.x_train) == len(spec.one_hot) == expected
    assert len(small_spec(digits, n=34, norm_layer="batch").dataset.x_train) == 34
    spec = small_spec(digits, n=33, epochs=1, norm_layer="batch")
    for name in ("art-madry", "sr+jr"):  # the one failed, the other did a step less than its schedule
        options = resolve_options(
            name, {}, {"eps": 0.1, "norm": "linf", "sigma": 0.1, "sr_weight": 1.0, "jr_weight": 0.1}
        )
        classifier = DEFENCES[name].train(spec, options)
        assert next(iter(classifier.optimizer.state.values()))["step"] == spec.steps == 1


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


def test_images_are_augmented_in_each_way_that_trainers_take_them(digits):
    spec = small_spec(digits, n=33, epochs=2, optimization=OptimizationSettings(augment="crop=2,flip"))
    plain = small_spec(digits, n=33, epochs=2)
    assert spec.config().augmentation == spec.optimization.augmentation
    assert plain.config().augmentation is None
    with plain.images() as images:
        assert images is plain.dataset.x_train
    assert [epochs for _, epochs in plain.epochs_of_images()] == [2]
    (first, one), (second, _) = spec.epochs_of_images()
    assert one == 1
    assert first.shape == second.shape == spec.dataset.x_train.shape
    assert not np.array_equal(first, second)
    assert np.array_equal(first, next(iter(spec.epochs_of_images()))[0])
    with spec.images() as images:
        for step in range(spec.steps):
            batch = images[np.arange(33)]
            assert np.array_equal(batch, first) == (step == 0)
    with pytest.raises(NotApplicable, match="drew 1 batches of augmented images, not 4"), spec.images() as images:
        images[np.arange(3)]
