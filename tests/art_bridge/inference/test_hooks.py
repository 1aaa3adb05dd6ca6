"""Whom `SensRegClassifier` asks on its way to predictions and gradients, and who owns what it returns."""

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.standardisation_mean_std.pytorch import StandardisationMeanStdPyTorch
from torch import nn

from art_sensreg import SensRegClassifier
from tests.art_bridge.inference.twins import PREPROCESSING, SHAPE, Function, classifiers, images_and_labels, mlp


@pytest.fixture
def x():
    return images_and_labels()[0]


@pytest.fixture
def y():
    return images_and_labels()[1]


def test_results_belong_to_the_caller(x, y):
    ours = SensRegClassifier(nn.Sequential(nn.Flatten()), nn.CrossEntropyLoss(), SHAPE, 72, device_type="cpu")
    predictions = ours.predict(x)
    assert not np.shares_memory(predictions, x)
    held = []
    model = mlp()
    model[0].register_full_backward_hook(lambda module, inner, outer: held.append(inner[0]))
    gradient = SensRegClassifier(model, nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu").loss_gradient(x, y)
    assert np.array_equal(held[0].numpy(), gradient)
    assert not np.shares_memory(held[0].numpy(), gradient)
    assert gradient.flags.c_contiguous
    assert gradient.flags.writeable


class HandsOutItsWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(weight)
        return (x * weight).flatten(1).sum(1, keepdim=True).expand(-1, 3)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.saved_tensors[0], None


def test_gradients_are_not_the_models_weights(x, y):
    weight = nn.Parameter(torch.rand(7, *SHAPE))
    model = Function(lambda inner, x: HandsOutItsWeights.apply(x, weight))
    gradient = SensRegClassifier(model, nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu").loss_gradient(x, y)
    assert np.array_equal(gradient, weight.detach().numpy())
    gradient[:] = 0
    assert weight.min() > 0


def test_models_may_use_their_memory_again(x):
    memory = torch.empty(1, 3)
    model = Function(lambda inner, x: memory.copy_(inner(x)))
    ours, arts = classifiers(model)
    assert np.allclose(ours.predict(x, batch_size=1), arts.predict(x, batch_size=1))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(memory_format=torch.channels_last),
        Function(lambda inner, x: x.flatten(1).sum(1, keepdim=True) * torch.tensor([1.0, 2.0, 3.0])),
    ],
    ids=["channels-last", "spread"],
)
def test_gradients_are_laid_out_like_arrays(model, x, y):
    ours, arts = classifiers(model)
    gradient = ours.loss_gradient(x, y)
    assert np.allclose(gradient, arts.loss_gradient(x, y), atol=1e-6)
    assert gradient.strides == x.strides
    assert gradient.flags.writeable


@pytest.mark.parametrize("frozen", [False, True])
def test_outputs_that_do_not_depend_on_the_input(frozen, x, y, caplog):
    model = Function(lambda inner, x: inner(x.detach())).requires_grad_(not frozen)
    classifier = SensRegClassifier(model, nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu")
    assert np.array_equal(classifier.loss_gradient(x, y), np.zeros_like(x))
    assert torch.equal(classifier.loss_gradient(torch.from_numpy(x), y), torch.zeros(x.shape))
    assert "no path from `x` to the loss" in caplog.text


def test_gradients_are_the_same_inside_no_grad(x, y):
    ours, _ = classifiers(mlp())
    usual = ours.loss_gradient(x, y)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert np.array_equal(ours.loss_gradient(x, y), usual)


class Halved(SensRegClassifier):
    def _apply_preprocessing(self, x, y, fit=False, no_grad=True):
        x, y = super()._apply_preprocessing(x, y, fit=fit, no_grad=no_grad)
        return x / 2, y


class Negated(SensRegClassifier):
    def _apply_postprocessing(self, preds, fit):
        return -preds


class Shifted(SensRegClassifier):
    def reduce_labels(self, y):
        return (super().reduce_labels(y) + 1) % 3


class Doubled(SensRegClassifier):
    def predict(self, x, *args, **kwargs):
        return 2 * super().predict(x, *args, **kwargs)


def test_subclasses_are_asked(x, y):
    torch.manual_seed(0)
    make = {
        kind: kind(model, nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu") for model in [mlp()] for kind in KINDS
    }
    plain = make[SensRegClassifier]
    assert np.allclose(make[Halved].predict(x), plain.predict(x / 2))
    assert np.allclose(make[Halved].loss_gradient(x, y), plain.loss_gradient(x / 2, y) / 2)
    assert np.allclose(make[Negated].predict(x), -plain.predict(x))
    assert np.allclose(make[Shifted].loss_gradient(x, y), plain.loss_gradient(x, np.roll(y, 1, axis=1)))
    assert np.allclose(make[Doubled].predict(x), 2 * plain.predict(x))


KINDS = (SensRegClassifier, Halved, Negated, Shifted, Doubled)


def test_hooks_replaced_on_the_object_or_the_class_are_asked(x, monkeypatch):
    classifier = SensRegClassifier(mlp(), nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu")
    plain = classifier.predict(x)
    own = classifier._apply_preprocessing
    classifier._apply_preprocessing = lambda x, y, fit=False, no_grad=True: own(x / 2, y)
    assert np.allclose(classifier.predict(2 * x), plain)
    del classifier._apply_preprocessing
    monkeypatch.setattr(SensRegClassifier, "_apply_postprocessing", lambda self, preds, fit: -preds)
    assert np.allclose(classifier.predict(x), -plain)


@pytest.mark.parametrize("name", [name for name in PREPROCESSING if not name.startswith("numpy")])
def test_arts_slow_predictions_and_gradients_of_weights_are_not_asked_for(name, x, y, monkeypatch):
    model = mlp(last=[nn.Softmax(dim=1)]) if name == "reverse-sigmoid" else mlp()
    classifier = classifiers(model, **PREPROCESSING[name])[0]
    monkeypatch.setattr(PyTorchClassifier, "predict", None)
    classifier.predict(x)
    if name == "training-defence":  # of numpy, so that ART's gradient goes around it
        return
    monkeypatch.setattr(PyTorchClassifier, "loss_gradient", None)
    classifier.loss_gradient(x, y)


def test_a_new_preprocessing_is_seen(x):
    ours, arts = classifiers(mlp())
    for classifier in (ours, arts):
        classifier.set_params(preprocessing=StandardisationMeanStdPyTorch(0.5, 0.25, device_type="cpu"))
    assert np.allclose(ours.predict(x), arts.predict(x), atol=1e-6)


class AlwaysTraining(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


@pytest.mark.parametrize("training_mode", [False, True])
def test_modes(training_mode, x, y):
    shared = nn.Dropout()
    model = nn.Sequential(AlwaysTraining(), shared, nn.Sequential(shared, nn.Flatten()), nn.Linear(72, 3))
    ours, arts = classifiers(model)
    for use in (lambda c: c.predict(x, training_mode=training_mode), lambda c: c.loss_gradient(x, y, training_mode)):
        for classifier in (ours, arts):
            classifier.model[2].train(not training_mode)
            use(classifier)
        modes = [[module.training for module in classifier.model.modules()] for classifier in (ours, arts)]
        assert modes[0] == modes[1]
        assert ours._model.training is training_mode


class CountsTrain(nn.Identity):
    calls = 0

    def train(self, mode=True):
        self.calls += 1
        return super().train(mode)


def test_a_train_of_its_own_is_called(x):
    classifier = SensRegClassifier(
        nn.Sequential(CountsTrain(), mlp()), nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu"
    )
    classifier.predict(x)
    classifier.predict(x)
    assert classifier.model[0].calls == 2
    calls = []
    classifier = SensRegClassifier(mlp().eval(), nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu")
    classifier.predict(x)
    classifier.model[1].train = calls.append
    classifier.predict(x)
    assert calls == [False]


def test_hooks_run_as_often_as_in_art(x, y):
    counts = []
    for classifier in classifiers(mlp()):
        seen = []
        for module in (classifier._model, classifier.model[1]):
            module.register_forward_hook(lambda *_, seen=seen: seen.append(0))
        classifier.predict(x, batch_size=3)
        classifier.loss_gradient(x, y)
        counts.append(len(seen))
    assert counts == [8, 8]


@pytest.mark.parametrize("everywhere", [False, True])
def test_hooks_may_keep_what_they_see(everywhere, x, y):
    model = mlp()
    seen = []
    register = nn.modules.module.register_module_forward_pre_hook if everywhere else model[0].register_forward_pre_hook
    hook = register(lambda module, given: seen.append(given[0]))
    classifier = SensRegClassifier(model, nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu")
    try:
        classifier.predict(x, batch_size=3)
        classifier.loss_gradient(x, y)
    finally:
        hook.remove()
    assert len(seen) > 3
    assert not any(np.shares_memory(each.detach().numpy(), x) for each in seen)
