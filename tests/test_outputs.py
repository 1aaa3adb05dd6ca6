"""The class that a model's output stands for, against the logits that it was made of."""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg.outputs import (
    SingleOutput,
    class_logits,
    class_scores,
    predicted_classes,
    single_output_threshold,
)

PROBABILITY = SingleOutput("probability", "BCELoss", 2)
LOGIT = SingleOutput("logit", "BCEWithLogitsLoss", 2)


class Ends(nn.Module):
    """A linear model with something behind its logit."""

    def __init__(self, end):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.end = nn.Linear(4, 1), end

    def forward(self, x):
        return self.end(self.layer(x))


ENDS = {
    "sigmoid": torch.sigmoid,
    "in place": lambda z: z.clone().sigmoid_(),
    "clamped": lambda z: torch.sigmoid(z).clamp(1e-6, 1 - 1e-6),
    "flat": lambda z: torch.sigmoid(z)[:, 0],
    "by hand": lambda z: 1 / (1 + torch.exp(-z)),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_probabilities_become_the_logit_that_they_were_made_of(end):
    model, x = Ends(end), 3 * torch.randn(6, 4)
    found = class_logits(model, x, PROBABILITY)
    wanted = model.layer(x)[:, 0]
    assert not found[:, 0].any()
    assert torch.allclose(found[:, 1], wanted, atol=1e-4)
    gradients = [torch.autograd.grad(z.sum(), model.layer.weight)[0] for z in (found[:, 1], wanted)]
    assert torch.allclose(*gradients, rtol=1e-3)


def test_a_certain_probability_keeps_its_gradient():
    model, x = Ends(torch.sigmoid), torch.full((1, 4), 1e3)
    assert model(x).item() in (0.0, 1.0)
    found = class_logits(model, x, PROBABILITY)
    assert torch.allclose(torch.autograd.grad(found[0, 1], model.layer.weight)[0], x)


def test_logits_and_several_outputs_stay():
    model, x = Ends(nn.Identity()), torch.rand(6, 4)
    assert torch.equal(class_logits(model, x, LOGIT)[:, 1:], model(x))
    many = nn.Linear(4, 3)
    assert torch.equal(class_logits(many, x, SingleOutput(None, "CrossEntropyLoss", 3)), many(x))


def test_outputs_of_the_copies_of_an_image_are_averaged():
    model, x = Ends(torch.sigmoid), torch.rand(6, 4)
    mean = model(x).view(3, 2).mean(1)
    assert torch.allclose(class_logits(model, x, PROBABILITY, rows=2)[:, 1], torch.logit(mean), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "single", "error", "message"),
    [
        (lambda x: None, LOGIT, TypeError, "`model` returns NoneType; expected logits"),
        (
            nn.Linear(4, 5),
            LOGIT,
            ValueError,
            r"`model` returns shape \(6, 5\); expected logits \(n, 2\), or one output",
        ),
        (nn.Linear(4, 1), SingleOutput(None, "HingeLoss", 2), ValueError, "`loss` is HingeLoss and the model has one"),
        (nn.Linear(4, 1), SingleOutput("logit", "BCELoss", 3), ValueError, "`nb_classes` is 3"),
    ],
)
def test_outputs_that_stand_for_no_class_are_refused(model, single, error, message):
    with pytest.raises(error, match=message):
        class_logits(model, torch.rand(6, 4), single)


def single_output_kind(loss):
    return SingleOutput.of(SimpleNamespace(loss=loss, nb_classes=2)).check()


def test_what_losses_say():
    probability, logit = F.binary_cross_entropy, F.binary_cross_entropy_with_logits
    losses = (nn.BCELoss(), probability, functools.partial(probability, reduction="sum"))
    assert {single_output_kind(loss) for loss in losses} == {"probability"}
    losses = (nn.BCEWithLogitsLoss(), logit, functools.partial(logit, pos_weight=None))
    assert {single_output_kind(loss) for loss in losses} == {"logit"}
    own = nn.MSELoss()
    with pytest.raises(ValueError, match="`loss` is MSELoss and the model has one output"):
        single_output_kind(own)
    own.single_output = "logit"
    assert single_output_kind(own) == "logit"


class Classifier:
    nb_classes, loss = 2, nn.BCELoss()


def test_scores_and_classes_of_predictions():
    outputs = np.array([0.2, 0.7], dtype=np.float32)
    np.testing.assert_allclose(class_scores(outputs, Classifier()), [[0.8, 0.2], [0.3, 0.7]], rtol=1e-6)
    assert predicted_classes(outputs[:, None], Classifier()).tolist() == [0, 1]
    assert predicted_classes(outputs[:0], Classifier()).shape == (0,)
    with pytest.raises(ValueError, match=r"predicts 0\.2 to 1\.7 and its loss takes probabilities"):
        class_scores(outputs + [0, 1], Classifier())


def test_where_a_single_output_turns_to_class_1():
    thresholds = [single_output_threshold(loss) for loss in (nn.BCELoss(), nn.BCEWithLogitsLoss(), nn.MSELoss())]
    np.testing.assert_equal(thresholds, [0.5, 0.0, np.nan])
