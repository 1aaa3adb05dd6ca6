"""Models, optimizers and penalties that cannot be trained are refused before any weight moves."""

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegTrainer
from tests.conftest import same_weights, weights_of

N = 20


RNG = np.random.default_rng(0)


X = RNG.random((N, 1, 8, 8)).astype(np.float32)


Y = np.arange(N) % 10


def test_a_classifier_without_an_optimizer_is_refused(make_classifier):
    classifier = make_classifier(optimizer=None)
    for target in (classifier, SensRegTrainer(classifier)):
        with pytest.raises(ValueError, match=r"`optimizer` of the classifier is None; expected a torch optimizer"):
            target.fit(X, Y)


def test_optimizers_that_would_train_nothing_are_refused(make_classifier):
    stranger = make_classifier().model
    for optimizer, error, message in (
        (torch.optim.SGD(stranger.parameters(), 0.1), ValueError, r"`optimizer` of the classifier holds none of the 4"),
        (torch.optim.LBFGS(stranger.parameters()), TypeError, r"`optimizer` of the classifier is LBFGS"),
    ):
        with pytest.raises(error, match=message):
            make_classifier(optimizer=optimizer).fit(X, Y, nb_epochs=1)
    frozen = make_classifier()
    frozen.model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"`optimizer` of the classifier holds none of the 0 parameters"):
        frozen.fit(X, Y, nb_epochs=1)
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(stranger.parameters(), 0.1), 1)
    with pytest.raises(ValueError, match=r"`scheduler` drives another optimizer"):
        make_classifier().fit(X, Y, nb_epochs=1, scheduler=scheduler)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [(7, r"`model` returns shape \(2, 7\) for 2 images; expected logits of shape \(2, 10\)"), (12, r"shape \(2, 12\)")],
)
def test_models_with_another_number_of_outputs_are_refused(outputs, message):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device_type="cpu",
    )
    with pytest.raises(ValueError, match=message):
        SensRegTrainer(classifier, []).fit(X, Y, verbose=False)


def test_models_that_return_several_outputs_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x):
            return self.linear(x.flatten(1)), x

    model = Two()
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device_type="cpu",
    )
    with pytest.raises(ValueError, match=r"`model` returns tuple for 2 images; expected logits"):
        SensRegTrainer(classifier, []).fit(X, Y, verbose=False)


def test_a_missing_argument_is_pythons_own_error(make_classifier):
    with pytest.raises(TypeError, match=r"fit\(\) missing 1 required positional argument: 'y'"):
        make_classifier().fit(X)


def test_an_unknown_layer_is_refused(make_classifier):
    classifier = make_classifier(penalties=[SensitivityPenalty(layers=["conv9"])])
    before = weights_of(classifier)
    with pytest.raises(
        ValueError, match=r"`layers` asks for 'conv9', which the model does not have; its modules: features"
    ):
        classifier.fit(X, Y, nb_epochs=1)
    assert same_weights(before, weights_of(classifier))


def test_clipping_noise_without_clip_values_is_refused(make_classifier):
    classifier = make_classifier(penalties=[SensitivityPenalty(clip=True)], clip_values=None)
    with pytest.raises(ValueError, match=r"`clip` of SensitivityPenalty\(.*\) is True; expected a classifier"):
        classifier.fit(X, Y, nb_epochs=1)
