"""What `fit` says, before a weight moves, of penalties without effect; and that it is silent where they have one."""

import copy
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import (
    FIRETrainer,
    GradDivTrainer,
    GradientDiversityPenalty,
    JacobianPenalty,
    SensitivityPenalty,
    SensRegClassifier,
    SensRegTrainer,
    TrainingConfig,
    randomize,
)

X = np.random.default_rng(0).random((16, 4)).astype(np.float32)
Y = np.arange(16) % 3


class Backbone(nn.Module):
    def __init__(self, gradients=True):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5)
        self.gradients = gradients

    def forward(self, x):
        with torch.set_grad_enabled(self.gradients and torch.is_grad_enabled()):
            return torch.sigmoid(self.second(self.act(self.first(x))))


def build(gradients=True, hidden=False):
    torch.manual_seed(0)
    head = [nn.Linear(5, 5), nn.ReLU()] if hidden else []
    return nn.Sequential(Backbone(gradients), *head, nn.Linear(5, 3))


def classifier_of(model, held=None):
    held = [p for p in (model if held is None else held).parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(held, lr=0.1)
    return SensRegClassifier(model, nn.CrossEntropyLoss(), (4,), 3, optimizer=optimizer, device_type="cpu")


def said(trainer):
    """The warnings of a run, which must have done something."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(X, Y, nb_epochs=2, verbose=False)
    return [str(w.message) for w in caught if "without effect" in str(w.message)], caught


def frozen(**kwargs):
    model = build(**kwargs)
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize("make", [frozen, lambda: build(gradients=False), build], ids=["frozen", "no_grad", "not held"])
def test_every_layer_of_a_penalty_without_effect_is_named_once(make):
    model = make()
    trainer = SensRegTrainer(classifier_of(model, model[1]), [SensitivityPenalty(), JacobianPenalty()])
    (text,), caught = said(trainer)
    assert "`sensitivity` has no effect (all layers: layer 1, 'tanh' in '0.act'; layer 2, 'sigmoid' in '0')" in text
    assert "jacobian" not in text
    assert trainer.history[0]["sensitivity"] > 0
    assert [w.filename for w in caught if "without effect" in str(w.message)] == [__file__]


def test_only_the_layers_without_effect_are_named():
    trainer = SensRegTrainer(classifier_of(frozen(hidden=True)), [SensitivityPenalty(layers="hidden+logits")])
    (text,), _ = said(trainer)
    assert re.search(
        r"`sensitivity` on 2 of its 4 layers \(layer 1, 'tanh' in '0.act'; layer 2, 'sigmoid' in '0'\)\. They have a",
        text,
    )


@pytest.mark.parametrize("weight", [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
def test_layer_weights_count(weight):
    trainer = SensRegTrainer(
        classifier_of(frozen(hidden=True)), [SensitivityPenalty(layers="hidden+logits", layer_weights=weight)]
    )
    (text,), _ = said(trainer)
    assert ("has no effect" in text) is (weight[0] > 0)


def last_bias():
    model = build()
    model.requires_grad_(False)
    model[1].bias.requires_grad_(True)
    return model


@pytest.mark.parametrize("estimator", ["projection", "exact", "finite_difference"])
def test_the_jacobian_does_not_depend_on_the_last_bias(estimator):
    penalty = JacobianPenalty(estimator=estimator, sigma=0.1 if estimator == "finite_difference" else None)
    (text,), _ = said(SensRegTrainer(classifier_of(last_bias()), [penalty]))
    assert "`jacobian` has no effect" in text
    assert not said(SensRegTrainer(classifier_of(frozen()), [penalty]))[0]


@pytest.mark.parametrize(
    "penalty",
    [JacobianPenalty(estimator="projection"), JacobianPenalty(estimator="exact"), GradientDiversityPenalty(samples=2)],
)
def test_gradients_with_respect_to_the_input_stop_at_a_backbone_without_gradients(penalty):
    model = build(gradients=False)
    if isinstance(penalty, GradientDiversityPenalty):
        model = randomize(model, kind="rse")
    trainer = SensRegTrainer(classifier_of(model), [penalty])
    (text,), _ = said(trainer)
    assert f"`{penalty.name}` has no effect" in text
    assert [record[penalty.name] for record in trainer.history] == [0.0, 0.0]


def test_fire_and_graddiv_are_checked_too():
    """A bias of the logits moves both: softmax and loss depend on it. An output of constants moves neither."""
    random = randomize(last_bias(), kind="rse")
    assert not said(FIRETrainer(classifier_of(last_bias()), max_iter=2))[0]
    assert not said(GradDivTrainer(classifier_of(random), samples=2))[0]

    class Shifted(nn.Module):
        """All logits rise and fall together: neither softmax nor the loss's gradient depends on it."""

        def __init__(self):
            super().__init__()
            self.fixed, self.shift = build().requires_grad_(False), nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.fixed(x) + self.shift

    (text,), _ = said(FIRETrainer(classifier_of(Shifted()), max_iter=2))
    assert "`fisher_rao` has no effect" in text
    (text,), _ = said(GradDivTrainer(classifier_of(randomize(Shifted(), kind="rse")), samples=2))
    assert "`gradient_diversity` has no effect" in text


@pytest.mark.parametrize("penalties", [[], [SensitivityPenalty(), JacobianPenalty()]])
def test_nothing_to_train_is_an_error(penalties):
    model = nn.Sequential(Backbone(gradients=False), nn.Flatten())
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), (4,), 5, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), device_type="cpu"
    )
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="`model` returns logits that depend on no parameter"):
        SensRegTrainer(classifier, penalties).fit(X, Y, nb_epochs=1, verbose=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
@pytest.mark.parametrize("norm", [nn.Identity, lambda: nn.BatchNorm1d(6)])
def test_penalties_with_an_effect_are_not_warned_of(activation, norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), norm(), activation(), nn.Dropout(0.2), nn.Linear(6, 3))
    penalties = [SensitivityPenalty(), JacobianPenalty(), JacobianPenalty(estimator="projection")]
    assert not said(SensRegTrainer(classifier_of(model), penalties))[0]


def test_a_users_own_penalty_is_not_called_before_training():
    calls = []

    def own(model, x, y):
        calls.append(len(x))
        return model(x).pow(2).mean()

    said(SensRegTrainer(classifier_of(build()), [own], TrainingConfig(batch_size=8)))
    assert calls == [8, 8, 8, 8]


def test_the_check_changes_nothing_in_the_run(monkeypatch):
    weights = []
    for look in (True, False):
        if not look:
            monkeypatch.setattr("art_sensreg.art_bridge.prepare.warn_without_effect", lambda *args: None)
        model = nn.Sequential(build(hidden=True), nn.BatchNorm1d(3), nn.Dropout(0.1))
        model[0][0].second.requires_grad_(False)
        SensRegTrainer(classifier_of(model), config=TrainingConfig(seed=0)).fit(X, Y, nb_epochs=2, verbose=False)
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
