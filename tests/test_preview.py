"""`describe`: its numbers against the same ones computed another way, and that it leaves nothing behind."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import JacobianPenalty, RandomizedClassifier, SensRegClassifier, describe
from art_sensreg.preview import Description

X = np.random.default_rng(0).random((20, 4)).astype(np.float32)
Y = np.arange(20) % 3


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def classifier_of(model, kind=SensRegClassifier, **kwargs):
    kwargs.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=0.1))
    return kind(model, nn.CrossEntropyLoss(), (4,), 3, device_type="cpu", **kwargs)


def exact_jacobian(model, scale=1.0):
    total = torch.zeros(())
    for row in torch.from_numpy(X):
        jacobian = torch.autograd.functional.jacobian(lambda r: model(r[None] * scale)[0], row, create_graph=True)
        total = total + jacobian.pow(2).sum() / 2
    return total / len(X)


def test_a_model_alone():
    model = build()
    text = str(describe(model, X))
    assert text.splitlines()[0].startswith("base loss ")
    assert "20 rows, labels: the model's own predictions" in text
    assert [line.split()[:3] for line in text.splitlines()[4:6]] == [["1", "tanh", "1"], ["2", "relu", "3"]]
    described = describe(model, torch.from_numpy(X), torch.from_numpy(Y))
    assert repr(described) == str(described)
    assert [penalty.name for penalty in described.penalties] == ["sensitivity", "jacobian"]
    assert [(layer.name, layer.module, layer.shape, layer.neurons) for layer in described.layers] == [
        ("tanh", "1", (6,), 6),
        ("relu", "3", (5,), 5),
    ]
    assert described.base_loss == pytest.approx(F.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(Y)).item())


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_numbers(scale):
    """Exact Jacobians, and cross-entropy by its formula; in the user's units where the classifier standardises."""
    model = build()
    classifier = classifier_of(model, preprocessing=(0.0, 1 / scale)) if scale != 1 else model
    described = describe(classifier, X, Y, [JacobianPenalty(estimator="exact", weight=0.5)])
    (penalty,) = described.penalties
    expected = exact_jacobian(model, scale)
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    norm = torch.stack([g.pow(2).sum() for g in gradients if g is not None]).sum().sqrt()
    loss = F.cross_entropy(model(scale * torch.from_numpy(X)), torch.from_numpy(Y)).item()
    assert penalty.value == pytest.approx(expected.item(), rel=1e-4)
    assert penalty.gradient == pytest.approx(norm.item(), rel=1e-3)
    assert penalty.weighted == pytest.approx(0.5 * expected.item(), rel=1e-4)
    assert described.base_loss == pytest.approx(loss, rel=1e-5)
    assert penalty.share == pytest.approx(0.5 * expected.item() / loss, rel=1e-4)
    assert penalty.has_effect


def test_a_penalty_without_effect_is_named():
    model = build()
    model[:4].requires_grad_(False)
    described = describe(classifier_of(model, optimizer=torch.optim.SGD(model[4].parameters(), lr=0.1)), X, Y)
    sensitivity, jacobian = described.penalties
    assert sensitivity.value > 0
    assert (sensitivity.gradient, sensitivity.has_effect, jacobian.has_effect) == (0.0, False, True)
    assert [layer.trains for layer in described.layers] == [False, False]
    lines = str(described).splitlines()
    assert lines[1].endswith("NO EFFECT on any trained weight")
    assert [line.split()[-1] for line in lines[4:6]] == ["NO", "NO"]
    assert "gradient" in lines[6]


def test_users_own_penalties_and_those_of_a_classifier_are_described():
    def shrink(model, x, y):
        return model(x).pow(2).mean()

    model = build()
    classifier = classifier_of(model, penalties=[shrink, JacobianPenalty(weight=0.0, sigma=0.1)])
    (penalty,) = describe(classifier, X, Y).penalties
    assert (penalty.name, penalty.weight, penalty.layers) == ("shrink", 1.0, ())
    assert penalty.value == pytest.approx(model(torch.from_numpy(X)).pow(2).mean().item())
    (constant,) = describe(model, X, Y, [lambda model, x, y: torch.ones(())]).penalties
    assert not constant.has_effect


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(training):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.ReLU(), nn.Linear(6, 3)).train(training)
    classifier = classifier_of(model)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first, second = describe(classifier, X), describe(classifier, X)
    assert str(first) == str(second)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training is training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_number_of_inputs_and_every_kind_of_classifier():
    assert describe(build(), X, rows=7).rows == 7
    described = describe(classifier_of(build(), RandomizedClassifier), X, Y)
    assert isinstance(described, Description)
    assert describe(classifier_of(build(), optimizer=None), X, Y).penalties[0].has_effect
    soft = np.full((20, 3), 1 / 3, np.float32)
    expected = F.cross_entropy(build()(torch.from_numpy(X)), torch.from_numpy(soft)).item()
    assert describe(build(), X, soft).base_loss == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("model", X), TypeError, "`model` is str"),
        ((build(), X.astype(int)), ValueError, "`x` has shape .* torch.int64; expected floating point"),
        ((build(), "images"), TypeError, "`x` is 'images'"),
        ((build(), X * np.nan), ValueError, "`x` has NaN"),
        ((build(), X[0]), ValueError, r"`x` has shape \(4,\)"),
        ((build(), X, Y[:3]), ValueError, "`y` has 3 labels; expected 20"),
        ((build(), X, Y + 1), ValueError, "`y` has class indices from 1 to 3"),
        ((build(), X, Y, "sensitivity"), TypeError, "`penalties` is 'sensitivity'"),
        ((build(), X, Y, None, 0), ValueError, "`rows` is 0"),
        ((nn.Linear(4, 1), X), ValueError, r"`model` returns shape \(20, 1\)"),
        ((nn.Linear(4, 3), X), ValueError, "finds nothing to tap"),
        ((build().requires_grad_(False), X), ValueError, "no parameter that requires a gradient"),
        ((classifier_of(build()), X[:, :3]), ValueError, "`x`"),
        ((classifier_of(build()), 3), TypeError, "`x`"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        describe(*arguments)
