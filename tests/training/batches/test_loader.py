"""Batches of loaders: ART's data generators and torch's DataLoader."""

import random

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import SensRegTrainer, TrainingConfig
from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of
from tests.training.helpers import PENALTIES, Stop, classifier_around


def test_a_data_loader_trains(make_classifier, digits):
    data = TensorDataset(torch.from_numpy(digits.x_train[:201]), torch.from_numpy(digits.y_train[:201]))
    trainer = SensRegTrainer(make_classifier(), PENALTIES, TrainingConfig(seed=0))
    seen = []
    loader = DataLoader(
        data, batch_size=20, shuffle=True, collate_fn=lambda rows: seen.append(len(rows)) or collate(rows)
    )
    trainer.fit_generator(loader, nb_epochs=20, verbose=False)
    assert sum(seen) == 20 + 20 * 201  # every image once an epoch, after a batch to look at
    assert trainer.history[-1]["accuracy"] > 0.8


def collate(rows):
    x, y = zip(*rows, strict=True)
    return torch.stack(x), torch.stack(y)


def test_a_loader_of_something_else_is_refused(make_classifier, digits):
    trainer = SensRegTrainer(make_classifier(), PENALTIES)
    with pytest.raises(TypeError, match=r"`generator` yields Tensor|`generator` yields list"):
        trainer.fit_generator(DataLoader(torch.rand(10, 1, 8, 8), batch_size=5), nb_epochs=1, verbose=False)


def first_pixels(generator, digits, epochs=2):
    """The identity of the images, in the order in which a model in training sees them."""
    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0][:, 0, 0, 0].tolist()) if torch.is_grad_enabled() else None
    )

    class Start(Callback):
        def on_start(self, state):
            seen.clear()  # before, the model was tried out

    classifier_around(model).fit_generator(
        generator, nb_epochs=epochs, config=TrainingConfig(seed=0, callbacks=[Start()])
    )
    return [[round(pixel * 1000) for pixel in batch] for batch in seen]


def test_an_epoch_of_a_generator_is_each_image_once(digits):
    x = np.zeros((100, 1, 8, 8), dtype=np.float32)
    x[:, 0, 0, 0] = np.arange(100) / 1000
    y = np.arange(100) % 10
    data = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    for generator, expected in [
        (NumpyDataGenerator(x, y, batch_size=32), [0, 32, 64] * 2),
        (NumpyDataGenerator(x, y, batch_size=32, drop_remainder=False), [0, 32, 64, 96] * 2),
        (PyTorchDataGenerator(DataLoader(data, 32, drop_last=True), size=100, batch_size=32), [0, 32, 64] * 2),
        (DataLoader(data, 32), [0, 32, 64, 96] * 2),
    ]:
        assert [batch[0] for batch in first_pixels(generator, digits)] == expected


@pytest.mark.parametrize("kind", ["loader", "numpy"])
def test_a_shuffled_loader_follows_the_seed_and_resumes(make_classifier, digits, tmp_path, kind):
    x, y = digits.x_train[:200], digits.y_train[:200]

    def trained(seed=0, folder=None, resume=False, **config):
        loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), batch_size=50, shuffle=True)
        generator = loader if kind == "loader" else NumpyDataGenerator(x, y, batch_size=50, shuffle=True)
        classifier = make_classifier()
        torch.rand(np.random.randint(1, 9))
        trainer = SensRegTrainer(classifier, PENALTIES, TrainingConfig(seed=seed, **config))
        trainer.fit_generator(generator, nb_epochs=3, checkpoint_dir=folder, resume=resume, verbose=False)
        return weights_of(classifier)

    whole = trained()
    assert same_weights(whole, trained())
    assert not same_weights(whole, trained(seed=1))
    with pytest.raises(InterruptedError):
        trained(folder=tmp_path, callbacks=[Stop(7)])
    assert same_weights(whole, trained(folder=tmp_path, resume=True))


def test_the_seed_of_a_loader_does_not_leak(make_classifier, digits):
    def drawn_after(outer):
        np.random.seed(outer)
        random.seed(outer)
        generator = NumpyDataGenerator(digits.x_train[:100], digits.y_train[:100], batch_size=50, shuffle=True)
        make_classifier().fit_generator(generator, nb_epochs=2, seed=0)
        return np.random.rand(), random.random()

    first, second = drawn_after(1), drawn_after(2)
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_unusual_loaders(make_classifier, digits):
    trainer = SensRegTrainer(make_classifier(), [], TrainingConfig(seed=0))
    empty = DataLoader(TensorDataset(torch.zeros(0, 1, 8, 8), torch.zeros(0)), batch_size=5)
    with pytest.raises(ValueError, match=r"`generator` is a DataLoader of 0 batches with no batch in an epoch"):
        trainer.fit_generator(empty, nb_epochs=1, verbose=False)
    half = TensorDataset(torch.from_numpy(digits.x_train[:20]).bfloat16(), torch.from_numpy(digits.y_train[:20]))
    trainer.fit_generator(DataLoader(half, batch_size=10), nb_epochs=1, verbose=False)
    assert len(trainer.history) == 1


def test_generators(make_classifier, digits):
    x, y = torch.from_numpy(digits.x_train[:100]), torch.nn.functional.one_hot(torch.from_numpy(digits.y_train[:100]))
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    generator = PyTorchDataGenerator(loader, size=100, batch_size=32)
    validation = (digits.x_test, digits.y_test)
    classifier = make_classifier(penalties=PENALTIES)
    classifier.fit_generator(generator, nb_epochs=3, validation_data=validation, seed=0)
    trainer = SensRegTrainer(make_classifier(), PENALTIES)
    trainer.fit_generator(generator, nb_epochs=30, verbose=False)
    assert [len(classifier.history), len(trainer.history)] == [3, 30]
    assert trainer.history[-1]["accuracy"] > 0.7
    assert "val_accuracy" in classifier.history[0]


def test_wrong_generators(make_classifier, digits):
    classifier = make_classifier()
    x = torch.from_numpy(digits.x_train[:100]) * 2
    bad = PyTorchDataGenerator(
        DataLoader(TensorDataset(x, torch.zeros(100).long()), batch_size=32), size=100, batch_size=32
    )
    before = weights_of(classifier)
    for target, options in ((classifier, {}), (SensRegTrainer(classifier, []), {"verbose": False})):
        with pytest.raises(ValueError, match=r"`x` has values from 0 to 2; expected \[0, 1\]"):
            target.fit_generator(bad, nb_epochs=1, **options)
        with pytest.raises(TypeError, match=r"`generator` is list; expected an art.data_generators.DataGenerator"):
            target.fit_generator([1, 2], nb_epochs=1, **options)
        with pytest.raises(TypeError, match=r"fit_generator\(\) got an unknown keyword argument `epochs`=1"):
            target.fit_generator(bad, epochs=1, **options)
        with pytest.raises(ValueError, match=r"`nb_epochs` is 0"):
            target.fit_generator(bad, nb_epochs=0, **options)
    assert same_weights(before, weights_of(classifier))


def test_a_numpy_generator_is_checked_in_full_before_training(make_classifier, digits):
    x = digits.x_train[:100].copy()
    x[90] = np.nan
    classifier = make_classifier()
    before = weights_of(classifier)
    with pytest.raises(ValueError, match=r"`x` has NaN or infinite values in 1 of 100 images"):
        classifier.fit_generator(NumpyDataGenerator(x, digits.y_train[:100], batch_size=10), nb_epochs=1)
    assert same_weights(before, weights_of(classifier))
