"""An `nn.Sequential` that is more than its children: one function in training, prediction, gradients and attacks."""

import copy
import logging
import pickle

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegClassifier, SensRegTrainer
from art_sensreg.attacks import differentiable_model
from art_sensreg.randomized import RandomizedClassifier

X = np.linspace(0, 1, 24, dtype=np.float32).reshape(8, 3)
Y = np.eye(2, dtype=np.float32)[np.arange(8) % 2]


class Residual(nn.Sequential):
    """The second child comes in between, too; in training mode something else again."""

    def forward(self, x):
        hidden = self[0](x)
        return self[2](hidden + self[1](hidden)) + (10.0 if self.training else 0.0)


def layers():
    torch.manual_seed(0)
    return nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)


def residual():
    return Residual(*layers())


def hooked():
    model = nn.Sequential(*layers())
    model.register_forward_hook(double)
    return model


def pre_hooked():
    model = nn.Sequential(*layers())
    model.register_forward_pre_hook(shift)
    return model


def with_forward():
    model = nn.Sequential(*layers())
    model.forward = lambda x, layers=tuple(model): layers[2](x[:, :1] + layers[0](x))
    return model


def double(module, inputs, output):
    return 2 * output


def shift(module, inputs):
    return (inputs[0] + 1,)


MODELS = [residual, hooked, pre_hooked, with_forward]


def classifier_of(model, kind=SensRegClassifier, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = (model, nn.CrossEntropyLoss(), (3,), 2)
    return kind(*arguments, optimizer=optimizer, clip_values=(0, 1), device_type="cpu", **kwargs)


def truth(model):
    """Logits, gradients of the loss and of each logit, of the model itself."""
    x = torch.tensor(X, requires_grad=True)
    logits = model.eval()(x)
    loss = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.tensor(Y)), x, retain_graph=True)[0]
    classes = [torch.autograd.grad(logits[:, c].sum(), x, retain_graph=True)[0].numpy() for c in range(2)]
    return logits.detach().numpy(), loss.numpy(), np.stack(classes, axis=1)


@pytest.mark.parametrize("preprocessing", [None, (0.0, 1.0)])
@pytest.mark.parametrize("make", MODELS)
def test_one_function_everywhere(make, preprocessing):
    logits, loss, classes = truth(make())
    mean = float(nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(Y)))
    for kind in (SensRegClassifier, RandomizedClassifier):
        classifier = classifier_of(make(), kind, preprocessing=preprocessing)
        assert np.allclose(classifier.predict(X), logits, atol=1e-6)
        assert np.allclose(classifier.loss_gradient(X, Y), loss, atol=1e-7)
        assert np.allclose(classifier.class_gradient(X), classes, atol=1e-6)
        assert classifier.compute_loss(X, Y).mean() == pytest.approx(mean, rel=1e-5)
        # What attacks of ART make of it, and ours.
        rebuilt = PyTorchClassifier(classifier.model, nn.CrossEntropyLoss(), (3,), 2, device_type="cpu")
        assert np.allclose(rebuilt.predict(X), logits, atol=1e-6)
        assert np.allclose(differentiable_model(classifier)(torch.tensor(X)).detach(), logits, atol=1e-6)
        classifier.fit(X, Y, batch_size=8, nb_epochs=1, seed=0)
        expected = nn.functional.cross_entropy(torch.tensor(logits) + 10.0 * (make is residual), torch.tensor(Y))
        assert classifier.history[0]["base"] == pytest.approx(float(expected), rel=1e-5)


def test_a_hook_that_comes_later_counts_too():
    model = nn.Sequential(*layers())
    classifier = classifier_of(model)
    before = classifier.predict(X)
    model.register_forward_hook(double)
    assert np.allclose(classifier.predict(X), 2 * before)
    assert np.allclose(PyTorchClassifier(classifier.model, None, (3,), 2, device_type="cpu").predict(X), 2 * before)
    classifier.model.register_forward_hook(double)  # on what the classifier shows: once more, everywhere
    assert np.allclose(classifier.predict(X), 4 * before)
    assert np.allclose(model(torch.tensor(X)).detach(), 4 * before)


def test_an_attack_that_makes_a_classifier_of_its_own_attacks_the_model_itself():
    classifier = classifier_of(residual())
    seen = []
    classifier.model[1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    labels = classifier.predict(X).argmax(axis=1)
    attack = AutoProjectedGradientDescent(
        classifier, eps=0.9, eps_step=0.3, max_iter=10, nb_random_init=1, loss_type="cross_entropy", verbose=False
    )
    seen.clear()
    attack.generate(X, y=labels)
    assert seen  # the children ran: the tanh got the first layer's output
    assert all(torch.is_tensor(value) and value.shape[1] == 4 for value in seen)
    view = differentiable_model(PyTorchClassifier(residual(), nn.CrossEntropyLoss(), (3,), 2, device_type="cpu"))
    plain = PyTorchClassifier(residual(), nn.CrossEntropyLoss(), (3,), 2, device_type="cpu")
    assert np.allclose(view(torch.tensor(X)).detach(), plain.predict(X), atol=1e-6)  # it attacks what it is given


def test_a_classifier_of_arts_own_is_trained_and_predicts_the_same_function(caplog):
    caplog.set_level(logging.WARNING)
    logits, _, _ = truth(residual())
    classifier = classifier_of(residual(), PyTorchClassifier)
    trainer = SensRegTrainer(classifier, [SensitivityPenalty(sigma=0.1)])
    assert "This classifier now calls the model itself" in caplog.text
    assert np.allclose(classifier.predict(X), logits, atol=1e-6)
    trainer.fit(X, Y, nb_epochs=1, verbose=False)
    assert np.allclose(classifier.predict(X), classifier.model(torch.tensor(X)).detach(), atol=1e-6)
    caplog.clear()
    SensRegTrainer(classifier_of(residual()), [])
    SensRegTrainer(classifier_of(nn.Sequential(*layers()), PyTorchClassifier), [])
    assert caplog.text == ""


def test_activations_are_those_of_the_model_itself():
    classifier, model = classifier_of(residual()), residual()
    hidden = model[0](torch.tensor(X))
    assert np.allclose(classifier.get_activations(X, "2"), model.eval()(torch.tensor(X)).detach(), atol=1e-6)
    assert np.allclose(classifier.get_activations(X, 1), hidden.tanh().detach(), atol=1e-6)
    with pytest.raises(ValueError, match=r"`layer` is '1', which does not run"):
        classifier_of(with_forward()).get_activations(X, "1")


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("make", [residual, hooked])
def test_copies_and_files(make, copier, tmp_path):
    classifier = classifier_of(make(), penalties=[SensitivityPenalty(layers=["0"])])
    twin = copier(classifier)
    classifier.fit(X, Y, nb_epochs=1, seed=0)
    assert not np.allclose(twin.predict(X), classifier.predict(X))
    twin.fit(X, Y, nb_epochs=1, seed=0)
    assert np.array_equal(twin.predict(X), classifier.predict(X))
    assert type(twin._model._model) is type(make())
    clone = classifier.clone_for_refitting()
    classifier.save("net", str(tmp_path))
    clone.load_weights("net", str(tmp_path))
    assert np.array_equal(clone.predict(X), classifier.predict(X))
    clone.set_params(**classifier.get_params())
    assert np.array_equal(clone.predict(X), classifier.predict(X))
    assert list(classifier.model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, torch.jit.script, lambda model: torch.compile(model, backend="eager"), nn.Sequential]
)
def test_modules_around_it(wrap):
    if wrap is nn.DataParallel and torch.cuda.is_available():
        pytest.skip("where there is a GPU, torch wants the model there")
    model = residual() if wrap is not torch.jit.script else nn.Sequential(*layers())
    logits, loss, _ = truth(model)
    classifier = classifier_of(wrap(model))
    assert np.allclose(classifier.predict(X), logits, atol=1e-6)
    assert np.allclose(classifier.loss_gradient(X, Y), loss, atol=1e-6)
