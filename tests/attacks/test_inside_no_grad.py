"""What needs gradients does the same inside `no_grad` and `inference_mode`; a model that cuts them is reported."""

import copy
import logging
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import (
    FisherRaoPenalty,
    GradientDiversityPenalty,
    JacobianPenalty,
    RandomizedClassifier,
    SensitivityPenalty,
    SensRegClassifier,
    SensRegTrainer,
    TrainingConfig,
    audit,
    describe,
    randomize,
)
from art_sensreg.adversaries import FGSMRS, PGD, TRADES
from art_sensreg.attacks import (
    BPDA,
    EOT,
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    OfficialAutoAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from art_sensreg.interpret import ExplanationConfig, input_gradient

X = np.random.default_rng(0).random((16, 1, 2, 2), dtype=np.float32)
Y = np.arange(16) % 3
ROWS = np.eye(3, dtype=np.float32)[Y]
OFF = [torch.no_grad, torch.inference_mode]


class Detached(nn.Module):
    def forward(self, x):
        return torch.round(x.detach() * 4) / 4


@torch.inference_mode(False)
def network():
    return weights_of_this_mode()


def weights_of_this_mode():
    generator = np.random.default_rng(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.from_numpy(generator.normal(size=tuple(weight.shape))))
    return model


def classifier_of(model=None, kind=SensRegClassifier, **settings):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if list(model.parameters()) else None
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", "optimizer": optimizer, **settings}
    return kind(model, nn.CrossEntropyLoss(), (1, 2, 2), 3, **settings)


def transfer(classifier, **settings):
    return TransferAttack(classifier, [classifier_of()], **settings)


ATTACKS = {
    "ascent": ProjectedAscent,
    "far": partial(FarStartsAttack, nb_restarts=3),
    "scaled": partial(ScaledLogitsAttack, scales=(1.0,)),
    "targeted": TargetedMarginAttack,
    "hidden": partial(HiddenDistanceAttack, nb_restarts=2),
    "sink": partial(KitchenSinkAttack, max_iter=10, nb_restarts=7),
    "transfer": transfer,
    "official": partial(OfficialAutoAttack, attacks=("apgd-ce", "fab"), nb_iter=10),
}


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_find_the_same_inside(attack, off):
    classifier = classifier_of()
    usual = ATTACKS[attack](classifier, eps=0.1).generate(X, Y)
    assert (classifier.predict(usual).argmax(1) != classifier.predict(X).argmax(1)).any()
    with off():
        made = ATTACKS[attack](classifier, eps=0.1).generate(X, Y)
        assert np.array_equal(made, usual)
        assert torch.is_inference_mode_enabled() == (off is torch.inference_mode)
        assert not torch.is_grad_enabled()


def trained(how):
    classifier = classifier_of()
    if how == "penalties":
        classifier.penalties = [SensitivityPenalty(sigma=0.1), JacobianPenalty()]
        classifier.fit(X, Y, nb_epochs=1, batch_size=8, seed=0)
    elif how == "loader":
        data = torch.utils.data.TensorDataset(torch.from_numpy(X.copy()).clone(), torch.from_numpy(Y).clone())
        classifier.fit_generator(torch.utils.data.DataLoader(data, batch_size=8), nb_epochs=1, seed=0)
    else:
        trainer = SensRegTrainer(classifier, [], TrainingConfig(seed=0), adversary=PGD(eps=0.1))
        trainer.fit(X, Y, nb_epochs=1, verbose=False, validation_data=(X, Y))
    return classifier.predict(X)


def gradients(kind=SensRegClassifier):
    classifier = classifier_of(kind=kind)
    images, rows = torch.from_numpy(X.copy()).clone(), torch.from_numpy(ROWS).clone()
    parts = [classifier.loss_gradient(X, ROWS), classifier.loss_gradient(images, rows).numpy()]
    return np.stack([*parts, classifier.class_gradient(X, label=1)[:, 0]])


def penalty_of(penalty, model):
    return float(penalty(model, torch.from_numpy(X.copy()).clone(), torch.from_numpy(Y).clone()).detach())


def perturbed(adversary, model):
    loss, generator = nn.CrossEntropyLoss(), torch.Generator().manual_seed(0)
    return adversary.perturb(model, torch.from_numpy(X.copy()).clone(), torch.from_numpy(Y), loss, generator).numpy()


def audited(model):
    names = ["gradients_not_zero", "gradients_match_differences", "loss_gradient_is_the_models"]
    report = audit(classifier_of(model), X, Y, eps=0.1, quick=True, checks=names)
    return np.array([[check.value, check.status == "PASS"] for check in report.checks])


CALLS = {
    "fit": lambda _: trained("penalties"),
    "loader": lambda _: trained("loader"),
    "adversary": lambda _: trained("adversary"),
    "gradients": lambda _: gradients(),
    "gradients of a random model": lambda _: gradients(RandomizedClassifier),
    "sr": partial(penalty_of, SensitivityPenalty(sigma=0.1)),
    "jr differences": partial(penalty_of, JacobianPenalty(sigma=0.1)),
    "jr projection": partial(penalty_of, JacobianPenalty(estimator="projection")),
    "jr exact": partial(penalty_of, JacobianPenalty(estimator="exact")),
    "fire": partial(penalty_of, FisherRaoPenalty(eps=0.1)),
    "graddiv": lambda model: penalty_of(GradientDiversityPenalty(samples=2), nn.Sequential(nn.Dropout(0.3), model)),
    "pgd": partial(perturbed, PGD(eps=0.1)),
    "trades": partial(perturbed, TRADES(eps=0.1)),
    "fgsm": partial(perturbed, FGSMRS(eps=0.1)),
    "saliency": lambda model: input_gradient(classifier_of(model), X, Y),
    "eot": lambda model: EOT(model, 4)(torch.from_numpy(X)).numpy(force=True),
    "bpda": lambda model: BPDA(model, lambda x: x.round())(torch.from_numpy(X)).numpy(force=True),
    "audit": audited,
}


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("call", CALLS)
def test_whatever_needs_gradients_does_the_same_inside(call, off):
    model = network()
    torch.manual_seed(0)
    usual = CALLS[call](model)
    torch.manual_seed(0)
    with off():
        found = CALLS[call](model)
    assert np.allclose(found, usual, atol=1e-6)
    assert np.abs(usual).max() > 0


@pytest.mark.parametrize("off", OFF)
def test_copies_made_inside_can_be_trained(off):
    classifier, model = classifier_of(), network()
    with off():
        clone, random_copy = classifier.clone_for_refitting(), randomize(model)
        text = str(describe(classifier, X, Y, penalties=[SensitivityPenalty(sigma=0.1)]))
    assert text == str(describe(classifier, X, Y, penalties=[SensitivityPenalty(sigma=0.1)]))
    clone.fit(X, Y, nb_epochs=1)
    random_copy(torch.from_numpy(X)).sum().backward()
    assert not any(weight.is_inference() for weight in random_copy.parameters())


def test_penalties_of_tensors_made_in_inference_mode():
    model = network()
    with torch.inference_mode():
        x, y = torch.from_numpy(X).clone(), torch.from_numpy(Y).clone()
    for penalty in (SensitivityPenalty(sigma=0.1), JacobianPenalty(estimator="exact"), FisherRaoPenalty(eps=0.1)):
        torch.manual_seed(0)
        right = penalty_of(penalty, model)
        torch.manual_seed(0)
        value = penalty(model, x, y)
        assert value.item() == pytest.approx(right)
        value.backward()


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = weights_of_this_mode()
    classifier = classifier_of(model)
    message = r"`{}` has `1.weight` made inside torch.inference_mode\(\)"
    for make in ATTACKS.values():
        with pytest.raises(ValueError, match=message.format("estimator")):
            make(classifier, eps=0.1).generate(X, Y)
    with pytest.raises(ValueError, match=message.format(r"surrogates\[0\]")):
        TransferAttack(classifier_of(), [classifier], eps=0.1).generate(X, Y)
    calls = {
        "classifier": [lambda: audit(classifier, X, Y, eps=0.1), lambda: input_gradient(classifier, X, Y)],
        "model": [
            lambda: classifier.loss_gradient(X, ROWS),
            lambda: classifier.class_gradient(X),
            lambda: classifier.fit(X, Y, nb_epochs=1),
        ],
    }
    for name, several in calls.items():
        for call in several:
            with pytest.raises(ValueError, match=message.format(name)):
                call()
    ProjectedAscent(classifier_of(copy.deepcopy(model)), eps=0.1).generate(X, Y)


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in ("official", "transfer")])
def test_a_model_that_cuts_the_gradient_is_reported_once(attack, caplog):
    made = ATTACKS[attack](classifier_of(nn.Sequential(Detached(), network())), eps=0.1, batch_size=4)
    with caplog.at_level(logging.WARNING, logger="art_sensreg.attacks"):
        made.generate(X, Y)
    said = [
        record for record in caplog.records if "autograd finds no path from the images to the loss" in record.message
    ]
    assert len(said) == 1
    assert said[0].message.startswith(type(made).__name__)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="art_sensreg.attacks"):
        ATTACKS[attack](classifier_of(), eps=0.1).generate(X, Y)
    assert not caplog.records


def test_where_a_cut_gradient_is_refused():
    cut = nn.Sequential(Detached(), network())
    with pytest.raises(ValueError, match="`estimator` cuts the gradient"):
        OfficialAutoAttack(classifier_of(cut), eps=0.1, attacks=("apgd-ce", "square"), nb_queries=5).generate(X, Y)
    OfficialAutoAttack(classifier_of(cut), eps=0.1, attacks=("square",), nb_queries=5).generate(X, Y)
    for adversary in (PGD(eps=0.1), TRADES(eps=0.1), FGSMRS(eps=0.1)):
        with pytest.raises(ValueError, match="`model` cuts the gradient"):
            perturbed(adversary, cut)


def test_explanations_of_a_model_that_cuts_the_gradient_are_zero_with_a_warning(caplog):
    classifier = classifier_of(nn.Sequential(Detached(), network()))
    with caplog.at_level(logging.WARNING, logger="art_sensreg.interpret"):
        assert not input_gradient(classifier, X, Y, ExplanationConfig(batch_size=4)).any()
    assert ["Autograd finds no path" in record.message for record in caplog.records] == [True]
