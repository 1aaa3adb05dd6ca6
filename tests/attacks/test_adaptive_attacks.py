"""Each adaptive attack breaks a model that the plain one does not; and what they all have in common."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg import attacks as public
from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from art_sensreg.attacks.base.norms import NORMS, perturbation_norm
from tests.attacks.trained import (
    LINF,
    Detached,
    Noisy,
    Plateau,
    RoundedLogits,
    Scaled,
    accuracy,
    points,
    trained,
    wrap,
)

EPS = {"linf": 0.12, "l2": 0.7, "l1": 3.0}


def all_attacks(classifier, surrogate=None, **settings):
    shorter = {"max_iter": 15, **settings}
    return {
        "away": HiddenDistanceAttack(classifier, nb_restarts=2, **shorter),
        "towards": HiddenDistanceAttack(classifier, direction="towards", nb_restarts=2, **shorter),
        "far": FarStartsAttack(classifier, nb_restarts=3, **shorter),
        "scaled": ScaledLogitsAttack(classifier, scales=(1.0,), **shorter),
        "targeted": TargetedMarginAttack(classifier, nb_targets=3, **shorter),
        "transfer": TransferAttack(classifier, [surrogate or wrap(trained(1))], **shorter),
        "sink": KitchenSinkAttack(classifier, nb_restarts=4, max_points=1000, **shorter),
    }


NAMES = list(all_attacks(wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))))


def broken_model(name):
    x, _ = points()
    return {
        "scaled": lambda: Scaled(trained(), 1000.0),
        "rounded": lambda: RoundedLogits(trained()),
        "detached": lambda: Detached(trained()),
        "plateau": lambda: Plateau(trained(), x, 0.1),
    }[name]()


@pytest.mark.parametrize("name", ["scaled", "rounded", "detached", "plateau"])
def test_plain_ascent_is_fooled_by_the_broken_models(name):
    """Otherwise the tests below would show nothing; without its fault, the model itself is at 0.13."""
    classifier, (x, y) = wrap(broken_model(name)), points()
    assert accuracy(classifier, x, y) > 0.95
    assert accuracy(classifier, ProjectedAscent(classifier, **LINF).generate(x, y), y) > 0.75
    honest = wrap(trained())
    assert accuracy(honest, ProjectedAscent(honest, **LINF).generate(x, y), y) < 0.2


@pytest.mark.parametrize(
    ("name", "attack", "settings", "most"),
    [
        ("scaled", ScaledLogitsAttack, {}, 0.2),
        ("scaled", TargetedMarginAttack, {}, 0.2),
        ("scaled", HiddenDistanceAttack, {"direction": "towards"}, 0.55),
        ("rounded", HiddenDistanceAttack, {"direction": "away", "nb_restarts": 8}, 0.45),
        ("rounded", HiddenDistanceAttack, {"direction": "towards", "nb_restarts": 8}, 0.45),
        ("plateau", FarStartsAttack, {}, 0.25),
        ("scaled", KitchenSinkAttack, {"max_iter": 30, "max_points": 100}, 0.2),
        ("rounded", KitchenSinkAttack, {"max_iter": 30, "max_points": 100}, 0.45),
        ("plateau", KitchenSinkAttack, {"max_iter": 30, "max_points": 100}, 0.25),
    ],
)
def test_adaptive_attack_breaks_the_model_it_is_made_for(name, attack, settings, most):
    classifier, (x, y) = wrap(broken_model(name)), points()
    made = attack(classifier, **{**LINF, **settings}).generate(x, y)
    assert accuracy(classifier, made, y) <= most


def test_transfer_from_the_twin_breaks_a_model_without_gradients():
    classifier, (x, y) = wrap(Detached(trained())), points()
    made = TransferAttack(classifier, [wrap(trained())], **LINF).generate(x, y)
    assert accuracy(classifier, made, y) < 0.2
    # Other weights: weaker than the twin, but still far beyond what its own gradients show.
    made = TransferAttack(classifier, [wrap(trained(1))], **LINF).generate(x, y)
    assert accuracy(classifier, made, y) < 0.5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NAMES)
def test_all_attacks_in_three_norms_within_budget(name, norm):
    classifier, (x, y) = wrap(trained()), points(50)
    attack = all_attacks(classifier, norm=norm, eps=EPS[norm])[name]
    before = x.copy()
    made = attack.generate(x, y)
    assert np.array_equal(x, before)
    assert made.dtype == np.float32
    assert accuracy(classifier, made, y) < 0.6
    assert perturbation_norm(torch.from_numpy(made - x), norm).max() <= EPS[norm] + 1e-6
    assert made.min() >= 0
    assert made.max() <= 1
    wrong = classifier.predict(x).argmax(axis=1) != y
    assert np.array_equal(made[wrong], x[wrong])


@pytest.mark.parametrize("name", NAMES)
def test_attacks_are_seeded_and_leave_no_trace(name):
    model, (x, y) = Noisy(trained()), points(12)
    model.train()
    model.model.features.eval()
    modes = [module.training for module in model.modules()]
    runs = []
    for seed in (3, 3, 4):
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        attack = all_attacks(wrap(model), eps=0.1, eps_step=0.002, max_iter=4, seed=seed)[name]
        runs.append(attack.generate(x, y))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert np.array_equal(np.random.get_state()[1], states[1])
        torch.rand(1)
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_all_attacks_see_eps_in_the_users_units(name):
    def in_bytes(seed):
        return wrap(trained(seed), clip_values=(0.0, 255.0), preprocessing=(0.0, 255.0))

    classifier, (x, y) = in_bytes(0), points(50)
    attack = all_attacks(classifier, in_bytes(1), eps=38.25)[name]
    made = attack.generate(255 * x, y)
    assert accuracy(classifier, made, y) < 0.5
    assert np.abs(made - 255 * x).max() <= 38.25 + 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_all_attacks_on_a_linear_model_of_two_classes_alone(name):
    """No hidden layer, one other class, one image, no other image to move towards."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.constant_(model[1].bias, 0.0)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
    classifier = SensRegClassifier(
        model, nn.CrossEntropyLoss(), (1, 2, 2), 2, clip_values=(0.0, 1.0), device_type="cpu"
    )
    settings = {"eps": 0.1, "max_iter": 5}
    attack = {
        "away": HiddenDistanceAttack(classifier, **settings),
        "towards": HiddenDistanceAttack(classifier, direction="towards", **settings),
        "far": FarStartsAttack(classifier, **settings),
        "scaled": ScaledLogitsAttack(classifier, **settings),
        "targeted": TargetedMarginAttack(classifier, **settings),
        "transfer": TransferAttack(classifier, [classifier, classifier], **settings),
        "sink": KitchenSinkAttack(classifier, **settings),
    }[name]
    x = np.array([[[[0.6, 0.45], [0.5, 0.5]]]], dtype=np.float32)
    assert classifier.predict(attack.generate(x, np.array([0]))).argmax() == 1


@pytest.mark.parametrize(
    ("attack", "settings", "error", "message"),
    [
        (HiddenDistanceAttack, {"layers": "all"}, ValueError, "`layers` is 'all'"),
        (HiddenDistanceAttack, {"layers": ["nowhere"]}, ValueError, "`layers` asks for 'nowhere'"),
        (HiddenDistanceAttack, {"layers": 3}, TypeError, "`layers` is 3"),
        (HiddenDistanceAttack, {"direction": "up"}, ValueError, "`direction` is 'up'; expected one of away, towards"),
        (HiddenDistanceAttack, {"weight": -1.0}, ValueError, "`weight` is -1.0"),
        (HiddenDistanceAttack, {"guides": np.zeros((2, 1, 8, 8))}, TypeError, "`guides` is ndarray; expected a pair"),
        (HiddenDistanceAttack, {"guides": (np.zeros((2, 8, 8)), [0, 1])}, ValueError, "`guides` holds images of shape"),
        (HiddenDistanceAttack, {"guides": (np.zeros((2, 1, 8, 8)), [0])}, ValueError, "`guides` holds labels"),
        (HiddenDistanceAttack, {"guides": (np.zeros((0, 1, 8, 8)), [])}, ValueError, "with m at least 1"),
        (FarStartsAttack, {"nb_restarts": 0}, ValueError, "`nb_restarts` is 0"),
        (ScaledLogitsAttack, {"scales": 10}, TypeError, "`scales` is 10; expected a list"),
        (ScaledLogitsAttack, {"scales": (1.0, 0.0)}, ValueError, "`scales` is 0.0"),
        (ScaledLogitsAttack, {"double": 1}, TypeError, "`double` is 1"),
        (TargetedMarginAttack, {"nb_targets": 10}, ValueError, "`nb_targets` is 10; expected at most 9"),
        (TargetedMarginAttack, {"nb_targets": 0}, ValueError, "`nb_targets` is 0"),
        (TargetedMarginAttack, {"nb_targets": 1.5}, TypeError, "`nb_targets` is 1.5"),
        (TransferAttack, {"surrogates": []}, ValueError, "`surrogates` is empty"),
        (TransferAttack, {"surrogates": None}, TypeError, "`surrogates` is NoneType"),
        (TransferAttack, {"surrogates": [nn.Identity()]}, TypeError, r"`surrogates\[0\]`: .*Identity"),
        (TransferAttack, {"surrogates": "other shape"}, ValueError, r"`surrogates\[0\]` has `input_shape` \(64,\)"),
        (TransferAttack, {"surrogates": "other classes"}, ValueError, r"`surrogates\[0\]` has `nb_classes` 9"),
        (TransferAttack, {"surrogates": "other range"}, ValueError, r"`surrogates\[0\]` has `clip_values`"),
        (TransferAttack, {"surrogates": "same", "ensemble": None}, TypeError, "`ensemble` is None"),
        (KitchenSinkAttack, {"max_points": 0}, ValueError, "`max_points` is 0"),
        (KitchenSinkAttack, {"layers": []}, ValueError, "`layers` is empty"),
        (KitchenSinkAttack, {"epsilon": 0.1}, TypeError, "epsilon"),
    ],
)
def test_wrong_arguments_are_refused(attack, settings, error, message):
    classifier = wrap(trained())
    named = {
        "other shape": lambda: [
            SensRegClassifier(nn.Linear(64, 10), nn.CrossEntropyLoss(), (64,), 10, device_type="cpu")
        ],
        "other classes": lambda: [
            SensRegClassifier(nn.Linear(64, 9), nn.CrossEntropyLoss(), (1, 8, 8), 9, device_type="cpu")
        ],
        "other range": lambda: [wrap(trained(), clip_values=(0.0, 255.0))],
        "same": lambda: [classifier],
    }
    if isinstance(settings.get("surrogates"), str):
        settings = {**settings, "surrogates": named[settings["surrogates"]]()}
    with pytest.raises(error, match=message):
        attack(classifier, **settings)


def test_all_are_public_and_documented_alike():
    for name in public.__all__:
        documentation = inspect.getdoc(getattr(public, name))
        assert "Example:\n>>> " in documentation
        if name.endswith("Attack"):
            assert name == "OfficialAutoAttack" or issubclass(getattr(public, name), ProjectedAscent)
            assert "| Paper link: " in documentation
