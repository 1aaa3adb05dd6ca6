"""Models that return more than logits in training mode: which output is trained, and which models are refused."""

import copy
import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from art_sensreg.adversaries import FGSMRS
from art_sensreg.penalties.forward.main_output import main_logits
from tests.conftest import same_weights, weights_of

Outputs = namedtuple("Outputs", ["logits", "aux_logits"])
X = np.random.default_rng(0).random((24, 4)).astype(np.float32)
Y = np.arange(24) % 3


class Inception(nn.Module):
    """An auxiliary head beside the main one, in training mode only."""

    def __init__(self, form=None):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.aux = nn.Linear(8, 3)
        self.form = form

    def forward(self, x):
        hidden = torch.relu(self.norm(self.body(x)))
        logits = self.head(hidden)
        return self.form(logits, self.aux(hidden)) if self.training and self.form else logits


class Distilled(Inception):
    """As DeiT: two heads, trained by two losses, whose mean is the prediction."""

    def forward(self, x):
        hidden = torch.relu(self.norm(self.body(x)))
        return (self.head(hidden), self.aux(hidden)) if self.training else (self.head(hidden) + self.aux(hidden)) / 2


FORMS = {
    "tuple": lambda logits, aux: (logits, aux),
    "list": lambda logits, aux: [logits, [aux, None]],
    "namedtuple": lambda logits, aux: Outputs(logits, aux),
    "reversed namedtuple": lambda logits, aux: namedtuple("Reversed", ["aux", "logits"])(aux, logits),
    "dict": lambda logits, aux: {"aux": aux, "out": logits},
    "dict of logits": lambda logits, aux: {"aux": aux, "logits": logits},
}


def make(model, **kwargs):
    torch.manual_seed(0)
    for module in (model.body, model.head, model.aux):
        module.reset_parameters()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    kwargs = {"penalties": [], "clip_values": (0.0, 1.0), **kwargs}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), (4,), 3, optimizer=optimizer, device_type="cpu", **kwargs)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("options", "adversary"), [({}, None), ({"preprocessing": (0.5, 2.0)}, None), ({}, FGSMRS(eps=0.1))]
)
def test_the_main_logits_are_trained(form, options, adversary):
    """To the same bits as the same model without the auxiliary head, which stays as it is."""
    penalties = [SensitivityPenalty(layers=["body", "logits"]), JacobianPenalty(), JacobianPenalty(estimator="exact")]
    results = []
    for model in (Inception(), Inception(form)):
        classifier = make(model, **options)
        auxiliary = model.aux.weight.detach().clone()
        trainer = SensRegTrainer(classifier, penalties, TrainingConfig(seed=0, batch_size=8), adversary)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(X, Y, validation_data=(X, Y), nb_epochs=2, verbose=False)
        texts = [str(warning.message) for warning in caught if "main logits are trained" in str(warning.message)]
        assert len(texts) == (model.form is not None)
        assert torch.equal(model.aux.weight, auxiliary)
        assert isinstance(classifier.model, Inception)
        results.append((weights_of(classifier), [record["loss"] for record in trainer.history], classifier.predict(X)))
    assert same_weights(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert np.array_equal(results[0][2], results[1][2])


def test_an_auxiliary_loss_is_a_penalty():
    model = Inception(FORMS["namedtuple"])
    classifier = make(model)

    def auxiliary(_, x, y):
        return nn.functional.cross_entropy(model(x).aux_logits, y)

    before = model.aux.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"`model` returns Outputs \(logits, aux_logits\) in training mode"):
        SensRegTrainer(classifier, [auxiliary]).fit(X, Y, nb_epochs=1, verbose=False)
    assert not torch.equal(model.aux.weight, before)


def test_a_resumed_run_is_the_same(tmp_path):
    runs = []
    for folder, epochs in ((tmp_path / "whole", [3]), (tmp_path / "parts", [1, 3])):
        for number in epochs:
            classifier = make(Inception(FORMS["tuple"]))
            trainer = SensRegTrainer(classifier, config=TrainingConfig(seed=0))
            with pytest.warns(UserWarning, match="main logits"):
                trainer.fit(X, Y, nb_epochs=number, checkpoint_dir=folder, resume=True, verbose=False)
        runs.append(weights_of(classifier))
    assert same_weights(*runs)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Distilled(), r"its prediction depends on 'aux.weight', which only an output other than the main one"),
        (
            Inception(lambda logits, aux: {"a": logits, "b": aux}),
            r"`model` returns dict \(a, b\) for 2 images in the mode",
        ),
        (Inception(lambda logits, aux: ()), r"`model` returns tuple of 0 for 2 images"),
        (Inception(lambda logits, aux: (aux[:, :2], logits)), r"`model` returns tuple of 2 for 2 images"),
        (Inception(lambda logits, aux: ("logits", logits)), r"expected logits of shape \(2, 3\), alone"),
        (Inception(lambda logits, aux: torch.cat([logits, aux], 1)), r"`model` returns shape \(2, 6\) for 2 images"),
    ],
)
def test_what_is_refused_before_a_weight_moves(model, message):
    classifier = make(model)
    model.train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        classifier.fit(X, Y, nb_epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_frozen_second_head_is_no_obstacle():
    model = Distilled()
    model.aux.requires_grad_(False)
    with pytest.warns(UserWarning, match="main logits"):
        make(model).fit(X, Y, nb_epochs=1)


def test_evaluation_mode_is_not_asked():
    """Trained in evaluation mode the model returns one tensor, and there is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make(Inception(FORMS["tuple"])).fit(X, Y, nb_epochs=1, training_mode=False)


def test_where_the_main_logits_stand():
    logits = torch.ones(1)
    outputs = [logits, {"aux": 1, "logits": logits}, {"out": logits}, (logits, 3), [logits], Outputs(logits, 1)]
    assert all(main_logits(output) is logits for output in outputs)
    assert [main_logits(output) for output in ({"aux": 5}, (), None)] == [None, None, None]
