"""Settings are checked and normalised however they are set; a refused change leaves an attack as it was."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.adversaries import PGD, TRADES
from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    OfficialAutoAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from art_sensreg.attacks.autoattack.rescale import within_budget
from art_sensreg.attacks.base.ascent import Steps
from art_sensreg.attacks.base.norms import Ball, perturbation_norm
from art_sensreg.auditing.checks.linear_truth import linear_margins
from art_sensreg.benchmark.config.threat_models import Threat, perturbation_size
from art_sensreg.penalties.forward.inner_ascent import Ascent, inner_ascent, inside_ball
from art_sensreg.penalties.sensitivity import layer_sensitivity
from art_sensreg.training import ValidationAttack
from art_sensreg.utils.norms import norm_name

WEIGHT = np.array([[1.0, -1.0, 0.5, 0.25], [-1.0, 0.5, 1.0, -0.25]])
LINF = [np.inf, float("inf"), np.float64("inf"), np.float32("inf"), torch.tensor(torch.inf), "inf", "Linf", "L-inf"]
L2 = [2, 2.0, np.int64(2), np.float32(2), torch.tensor(2), "2", "L2", " l2 "]
L1 = [1, 1.0, np.uint8(1), torch.tensor(1.0), "1", "L1"]
UNKNOWN = [3, 0, -np.inf, np.nan, True, None, "l3", "", "max", [2], np.array([2, 2]), (np.inf,), object(), b"l2"]


def classifier_of(**settings):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(WEIGHT))
    settings = {"clip_values": (0.0, 1.0), "device_type": "cpu", **settings}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), (1, 2, 2), 2, **settings)


def data(n=40):
    x = np.random.default_rng(0).random((n, 1, 2, 2)).astype(np.float32)
    return x, (x.reshape(n, 4) @ WEIGHT.T).argmax(axis=1)


def transfer(classifier, **settings):
    return TransferAttack(classifier, [classifier_of()], **settings)


ATTACKS = {
    "ascent": ProjectedAscent,
    "far": partial(FarStartsAttack, nb_restarts=3),
    "scaled": partial(ScaledLogitsAttack, scales=(1.0,), double=False),
    "targeted": TargetedMarginAttack,
    "hidden": partial(HiddenDistanceAttack, nb_restarts=1),
    "sink": partial(KitchenSinkAttack, max_iter=40, nb_restarts=3),
    "transfer": transfer,
    "official": partial(OfficialAutoAttack, attacks=("apgd-ce",), nb_iter=40),
}


@pytest.mark.parametrize(("written", "name"), [(LINF, "linf"), (L2, "l2"), (L1, "l1")])
def test_a_norm_may_be_written_in_many_ways(written, name):
    assert {norm_name(norm) for norm in written} == {name}
    for norm in written:
        assert Ball(norm, 0.1).norm == Threat(norm, (0.1,)).norm == name
        if name != "l1":
            assert PGD(eps=0.1, norm=norm) == PGD(eps=0.1, norm=name)
            assert ValidationAttack(eps=0.1, norm=norm) == ValidationAttack(eps=0.1, norm=name)
            assert TRADES(eps=0.1, norm=norm).ball == name


@pytest.mark.parametrize("norm", UNKNOWN)
def test_what_is_no_norm_is_refused_everywhere(norm):
    x = torch.zeros(1, 4)
    calls = [
        lambda: norm_name(norm),
        lambda: Ball(norm, 0.1),
        lambda: perturbation_norm(x, norm),
        lambda: PGD(eps=0.1, norm=norm),
        lambda: ValidationAttack(eps=0.1, norm=norm),
        lambda: inside_ball(x, x, 0.1, norm),
        lambda: inner_ascent(nn.Identity(), torch.sum, x, x, Ascent(eps=0.1, eps_step=0.1, max_iter=1, norm=norm)),
        lambda: perturbation_size(np.zeros((1, 2)), np.ones((1, 2)), norm),
        lambda: within_budget(np.zeros((1, 2)), np.ones((1, 2)), 0.1, norm, 0.0, 1.0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"`norm` is .*; expected one of linf"):
            call()
    for make in ATTACKS.values():
        with pytest.raises(ValueError, match=r"`norm` is .*; expected one of linf \(np.inf\), l2 \(2\), l1 \(1\)"):
            make(classifier_of(), norm=norm)


def test_adversaries_of_two_norms_refuse_the_third():
    with pytest.raises(ValueError, match=r"`norm` is 1; expected one of linf \(np.inf\), l2 \(2\)"):
        PGD(eps=0.1, norm=1)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.05), (2, 0.1), (1.0, 0.2)])
def test_an_attack_attacks_in_the_norm_that_was_set(attack, norm, eps):
    """The exact worst case of a linear model, whichever way the norm was set."""
    x, y = data()
    classifier, truth = classifier_of(), linear_margins(WEIGHT, np.zeros(2), x, y, Ball(norm, eps, 0, 1)) > 0
    assert 0.1 < truth.mean() < 0.95
    built, by_params, by_attribute = (ATTACKS[attack](classifier, eps=eps, norm=start) for start in (norm, 1, "l2"))
    by_params.set_params(norm=norm)
    by_attribute.norm = norm
    for made in (built, by_params, by_attribute):
        images = made.generate(x, y)
        assert np.array_equal(classifier.predict(images).argmax(axis=1) == y, truth)
        sizes = np.linalg.norm((images - x).reshape(len(x), -1), ord=norm, axis=1)
        assert sizes.max() == pytest.approx(eps, rel=0.05) or attack == "official"
        assert sizes.max() <= eps + 1e-6


REFUSED = {
    "norm": ["l3", None],
    "eps": [0.0, -1.0, np.nan, np.inf, "0.1", None, True],
    "eps_step": [0.0, -0.1, np.nan, "x"],
    "max_iter": [0, 1.5, "3", True],
    "nb_restarts": [0, -1],
    "batch_size": [0, 2.0],
    "loss": ["hinge", None],
    "schedule": ["linear"],
    "seed": ["x", -1, 0.5, None],
    "scales": [(0.0,), 3],
    "double": ["yes"],
    "nb_targets": [2, 0],
    "direction": ["up"],
    "weight": [-1.0],
    "layers": ["nowhere"],
    "max_points": [0],
    "version": ["strong"],
    "nb_iter": [0],
    "attacks": [("apgd",), ()],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_refused_change_changes_nothing(attack):
    made = ATTACKS[attack](classifier_of(), eps=0.1)
    before = dict(vars(made))
    for name in set(made.attack_params) & set(REFUSED):
        for value in REFUSED[name]:
            changes = [
                lambda name=name, value=value: setattr(made, name, value),
                lambda name=name, value=value: made.set_params(eps=0.2, **{"norm": 1, "batch_size": 7, name: value}),
            ]
            for change in changes if name != "eps" else changes[:1]:
                with pytest.raises((ValueError, TypeError), match=f"`{name}`|`attacks`"):
                    change()
                assert vars(made) == before
    with pytest.raises(ValueError, match=r"unknown keyword argument `epss`=0.2.*Did you mean `eps`\?"):
        made.set_params(batch_size=7, epss=0.2)
    assert vars(made) == before
    made.set_params(eps=np.float64(0.25), batch_size=np.int64(3))
    assert (made.eps, made.batch_size, type(made.eps), type(made.batch_size)) == (0.25, 3, float, int)


@pytest.mark.parametrize("value", [np.full(3, 0.1), np.array([0.1]), torch.full((4,), 0.1)], ids=["3", "1", "torch"])
def test_one_size_for_all_or_an_error_that_says_who_takes_several(value):
    for make in ATTACKS.values():
        with pytest.raises(TypeError, match=r"`eps` is an array of shape .* ART's ProjectedGradientDescent"):
            make(classifier_of(), eps=value)


def test_numbers_of_any_kind_are_sizes():
    x, y = data()
    usual = ProjectedAscent(classifier_of(), eps=0.25).generate(x, y)
    for eps in (np.float16(0.25), torch.tensor(0.25), np.array(0.25)):
        assert np.array_equal(ProjectedAscent(classifier_of(), eps=eps).generate(x, y), usual)


def test_functions_refuse_kinds_that_they_do_not_know():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="`schedule` is 'linear'; expected one of constant, cosine"):
        Steps(eps_step=0.1, max_iter=1, schedule="linear")
    for name, value in (("distance", "euclidean"), ("scale", "whole")):
        with pytest.raises(ValueError, match=f"`{name}` is '{value}'"):
            layer_sensitivity(x, x, 0.1, **{name: value})
