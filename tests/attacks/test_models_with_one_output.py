"""Models with one output: a probability, a logit, or two logits of the same network are as robust as each other."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import RandomizedClassifier, SensRegClassifier, SensRegTrainer, audit
from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    OfficialAutoAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
    differentiable_model,
)
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.attacks.base.predictions import labels_of, predicted_labels
from art_sensreg.auditing.checks.linear_truth import linear_margins
from art_sensreg.interpret import input_gradient

SHAPE, EPS = (1, 2, 4), 0.1
WEIGHT = np.array([3.0, -2.0, 1.0, -1.0, 2.0, -3.0, 1.0, -1.0])
FORMS = ("probability", "flat probability", "logit", "two logits")


class Ends(nn.Module):
    """`z = scale * w (x - 1/2)` as a probability, a logit, or two logits."""

    def __init__(self, form, scale):
        super().__init__()
        self.form, self.linear = form, nn.Linear(8, 1)
        with torch.no_grad():
            self.linear.weight.copy_(scale * torch.from_numpy(WEIGHT)[None])
            self.linear.bias.copy_(-self.linear.weight.sum() / 2)

    def forward(self, x):
        z = self.linear(x.flatten(1))
        if self.form == "two logits":
            return torch.cat([torch.zeros_like(z), z], dim=1)
        if self.form == "clamped":
            return z.sigmoid().clamp(1e-7, 1 - 1e-7)
        return {"probability": z.sigmoid(), "flat probability": torch.sigmoid(z).flatten(), "logit": z}[self.form]


def classifier_of(form, scale=1.0, nb_classes=2, kind=SensRegClassifier, **settings):
    loss = {"logit": nn.BCEWithLogitsLoss(), "two logits": nn.CrossEntropyLoss()}.get(form, nn.BCELoss())
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", **settings}
    return kind(Ends(form, scale), loss, SHAPE, nb_classes, **settings)


def data(n=40):
    x = np.random.default_rng(1).random((n, *SHAPE)).astype(np.float32)
    y = ((x.reshape(n, 8) - 0.5) @ WEIGHT > 0).astype(int)
    y[:5] = 1 - y[:5]
    return x, y


def truth(x, y, eps=EPS):
    """Which images no perturbation breaks, in closed form."""
    weight = np.stack([-WEIGHT / 2, WEIGHT / 2])
    return linear_margins(weight, -weight.sum(axis=1) / 2, x, y, Ball("linf", eps, 0, 1)) > 0


def official(classifier, **settings):
    attacks = ("apgd-ce", "fab", "square")
    return OfficialAutoAttack(classifier, attacks=attacks, nb_iter=20, nb_queries=100, nb_restarts=1, **settings)


def transfer(classifier, **settings):
    return TransferAttack(classifier, [classifier_of("two logits")], **settings)


ATTACKS = {
    "official": official,
    "ascent": ProjectedAscent,
    "margin": functools.partial(ProjectedAscent, loss="margin"),
    "far": functools.partial(FarStartsAttack, nb_restarts=3),
    "scaled": ScaledLogitsAttack,
    "targeted": TargetedMarginAttack,
    "hidden": HiddenDistanceAttack,
    "sink": functools.partial(KitchenSinkAttack, max_iter=20, nb_restarts=7, max_points=40),
    "transfer": transfer,
}


# Scale 40: probabilities of most images are exactly 0 or 1 in float32, and their logarithm has no gradient.
@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_each_form_is_as_robust_as_the_closed_form_says(attack, form, scale):
    if attack in ("ascent", "far", "hidden", "transfer") and scale > 1:
        attack = "margin"  # cross-entropy saturates, whatever the form
    (x, y), classifier = data(), classifier_of(form, scale)
    assert np.array_equal(predicted_labels(classifier, x) == y, truth(x, y, 0.0))
    made = ATTACKS[attack](classifier, eps=EPS).generate(x, y)
    assert np.array_equal(predicted_labels(classifier, made) == y, truth(x, y))


@pytest.mark.parametrize("kind", [SensRegClassifier, functools.partial(RandomizedClassifier, samples=3)])
@pytest.mark.parametrize("form", ["probability", "clamped"])
@pytest.mark.parametrize("attack", ["official", "margin", "scaled", "targeted"])
def test_a_saturated_probability_that_is_clamped_or_averaged_is_no_defence(attack, form, kind):
    (x, y), classifier = data(), classifier_of(form, 40.0, kind=kind)
    made = ATTACKS[attack](classifier, eps=EPS).generate(x, y)
    assert np.array_equal(predicted_labels(classifier, made) == y, truth(x, y))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("attack", ["official", "ascent", "targeted", "sink"])
def test_without_labels_both_classes_are_attacked(attack, form):
    (x, _), classifier = data(), classifier_of(form)
    y = predicted_labels(classifier, x)
    made = ATTACKS[attack](classifier, eps=EPS).generate(x)
    robust = predicted_labels(classifier, made) == y
    assert np.array_equal(robust, truth(x, y))
    assert not robust[y == 0].all()
    assert not robust[y == 1].all()


@pytest.mark.parametrize("form", FORMS[:3])
def test_labels_of_any_shape(form):
    (x, y), classifier = data(30), classifier_of(form)
    for labels in (y, y[:, None], y.astype(float), np.eye(2)[y], y.tolist(), torch.from_numpy(y)):
        assert np.array_equal(labels_of(classifier, labels, len(x)), y)
        made = TargetedMarginAttack(classifier, eps=EPS).generate(x, labels)
        assert np.array_equal(predicted_labels(classifier, made) == y, truth(x, y))
    attack = OfficialAutoAttack(classifier, eps=EPS, attacks=("apgd-ce",), nb_iter=20, nb_restarts=1)
    attack.generate(x, y[:, None])
    assert np.array_equal(attack.robust, truth(x, y))


def test_a_sigmoid_in_another_guise_is_inverted():
    class Handmade(nn.Module):
        def __init__(self, end):
            super().__init__()
            self.end = end

        def forward(self, x):
            return self.end(x.sum(1, keepdim=True))

    ends = [
        lambda z: 1 / (1 + torch.exp(-z)),
        lambda z: torch.cat([torch.zeros_like(z), z], 1).softmax(1)[:, 1:],
        lambda z: z.clone().sigmoid_().squeeze(1),
        lambda z: torch.special.expit(z),
        lambda z: z.sigmoid().mul(0.5).mul(2),
    ]
    x = torch.tensor([[0.25, 0.5], [-3.0, 1.0]], requires_grad=True)
    for end in ends:
        classifier = PyTorchClassifier(Handmade(end), nn.BCELoss(), (2,), 2, device_type="cpu")
        logits = differentiable_model(classifier)(x)
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), x)
        assert torch.allclose(logits, torch.tensor([[0.0, 0.75], [0.0, -2.0]]), atol=1e-5)
        assert torch.allclose(gradient, torch.ones_like(x), atol=1e-5)


def test_what_an_output_is_follows_from_the_loss_or_is_refused():
    class Mine(nn.Module):
        def forward(self, output, y):
            return F.binary_cross_entropy_with_logits(output, y)

    (x, y), mine = data(), Mine()
    optimizer = None
    for loss in (mine, nn.MSELoss(), nn.CrossEntropyLoss()):
        model = Ends("logit", 1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", "optimizer": optimizer}
        classifier = SensRegClassifier(model, loss, SHAPE, 2, **settings)
        message = rf"`loss` is {type(loss).__name__} and the model has one output; expected BCELoss"
        for name in ("official", "ascent", "sink"):
            with pytest.raises(ValueError, match=message):
                ATTACKS[name](classifier, eps=EPS).generate(x, y)
        with pytest.raises(ValueError, match=message):
            SensRegTrainer(classifier).fit(x, y, nb_epochs=1, verbose=False)
        with pytest.raises(ValueError, match=message):
            RandomizedClassifier(model, loss, SHAPE, 2, device_type="cpu").score(x, y, repeats=1)
    mine.single_output = "logit"
    classifier = SensRegClassifier(Ends("logit", 1.0), mine, SHAPE, 2, clip_values=(0.0, 1.0), device_type="cpu")
    made = ProjectedAscent(classifier, eps=EPS).generate(x, y)
    assert np.array_equal(predicted_labels(classifier, made) == y, truth(x, y))


def test_outputs_that_are_no_probabilities_are_refused():
    classifier = PyTorchClassifier(Ends("logit", 1.0), nn.BCELoss(), SHAPE, 2, clip_values=(0, 1), device_type="cpu")
    with pytest.raises(ValueError, match=r"predicts .* expected values from 0 to 1"):
        ProjectedAscent(classifier, eps=EPS).generate(data()[0])


def test_one_output_for_ten_classes_is_refused():
    classifier = classifier_of("logit", nb_classes=10)
    with pytest.raises(ValueError, match="`nb_classes` is 10 and the model has one output; expected 2"):
        ProjectedAscent(classifier, eps=EPS).generate(*data())


@pytest.mark.parametrize("form", FORMS)
def test_the_audit_classifies_by_the_same_rule(form):
    x, y = data()
    names = ["logits_not_probabilities", "deterministic", "batch_independent", "eps_zero_is_clean"]
    report = audit(classifier_of(form), x, y, eps=EPS, quick=True, checks=[*names, "gradients_match_differences"])
    assert {check.status for check in report.checks} == {"PASS"}
    assert report.settings["clean accuracy"] == pytest.approx(truth(x, y, 0.0).mean())
    assert report.settings["accuracy under the attack"] == pytest.approx(truth(x, y).mean())


@pytest.mark.parametrize("form", FORMS[:3])
def test_explanations_are_of_the_logit(form):
    (x, _), classifier = data(4), classifier_of(form, scale=40.0)
    ones = np.ones(4, dtype=int)
    assert np.allclose(input_gradient(classifier, x, ones).reshape(4, 8), 40 * WEIGHT, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_random_models_are_scored_by_the_same_rule(form):
    x, y = data()
    score = classifier_of(form, kind=RandomizedClassifier).score(x, y, repeats=2)
    assert score.mean == score.single_draw == pytest.approx(truth(x, y, 0.0).mean())
