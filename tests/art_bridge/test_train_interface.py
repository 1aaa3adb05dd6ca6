"""How a classifier is trained: arguments, defaults, and what is said of one without penalties."""

import inspect
import pickle
import warnings

import numpy as np
import pytest
import torch
from art.data_generators import NumpyDataGenerator
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import RandomizedClassifier, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig

X, Y = np.random.default_rng(0).random((8, 4), dtype=np.float32), np.arange(8) % 2


def classifier(kind=SensRegClassifier, **kwargs):
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return kind(model, nn.CrossEntropyLoss(), (4,), 2, optimizer, device_type="cpu", **kwargs)


def arts_own(name):
    """A method of ART's classifier, which its metaclass may have wrapped."""
    method = getattr(PyTorchClassifier, name)
    wrapped = dict(zip(method.__code__.co_freevars, method.__closure__ or (), strict=True))
    return wrapped["fdict"].cell_contents[name] if "fdict" in wrapped else method


@pytest.mark.parametrize("name", ["fit", "fit_generator"])
def test_arts_arguments_come_first_and_in_its_order(name):
    arts = [*inspect.signature(arts_own(name)).parameters]
    ours = [*inspect.signature(getattr(SensRegClassifier, name)).parameters]
    assert ours[: len(arts) - 1] == arts[:-1]  # all but **kwargs


def test_fit_is_a_method_of_the_class_under_its_own_name():
    assert SensRegClassifier.fit.__name__ == "fit"
    assert "Train on `(x, y)`" in SensRegClassifier.fit.__doc__


def test_classifier_and_trainer_have_the_same_defaults():
    for name in ("fit", "fit_generator"):
        ours, trainers = (inspect.signature(getattr(kind, name)) for kind in (SensRegClassifier, SensRegTrainer))
        for argument in set(ours.parameters) & set(trainers.parameters):
            assert ours.parameters[argument].default == trainers.parameters[argument].default, argument
    lengths = []
    for train in (classifier(penalties=[]).fit, SensRegTrainer(classifier(), []).fit):
        train(X, Y, verbose=False)
        lengths.append(len(train.__self__.history))
    assert lengths == [TrainingConfig().nb_epochs] * 2


@pytest.mark.parametrize("kind", [SensRegClassifier, RandomizedClassifier])
def test_a_classifier_without_penalties_warns_once(kind):
    plain = classifier(kind)
    with pytest.warns(UserWarning, match="`penalties=` was not given to this") as caught:
        plain.fit(X, Y, nb_epochs=1, verbose=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.fit(X, Y, nb_epochs=1, verbose=False)
        plain.fit_generator(NumpyDataGenerator(X, Y, 4), nb_epochs=1, verbose=False)
    with pytest.warns(UserWarning, match="`penalties=`"):
        classifier(kind).fit_generator(NumpyDataGenerator(X, Y, 4), nb_epochs=1, verbose=False)


@pytest.mark.parametrize(
    "train",
    [
        lambda: classifier(penalties=[]).fit,
        lambda: classifier(penalties=[SensitivityPenalty(layers="logits")]).fit,
        lambda: SensRegTrainer(classifier(), []).fit,
    ],
    ids=["none-on-purpose", "some", "trainer"],
)
def test_a_deliberate_choice_is_not_warned_of(train):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train()(X, Y, nb_epochs=1, verbose=False)


def test_copies_are_warned_of_as_the_original_would_be():
    for copy in (lambda c: c.clone_for_refitting(), lambda c: pickle.loads(pickle.dumps(c))):
        with pytest.warns(UserWarning, match="`penalties=`"):
            copy(classifier()).fit(X, Y, nb_epochs=1, verbose=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            copy(classifier(penalties=[])).fit(X, Y, nb_epochs=1, verbose=False)


def test_penalties_are_a_property():
    plain = classifier()
    assert plain.penalties == plain.get_params()["penalties"] == ()
    plain.penalties = [SensitivityPenalty()]
    assert plain.penalties == (SensitivityPenalty(),)
    with pytest.raises(TypeError, match="`penalties` holds 3"):
        plain.penalties = [3]
