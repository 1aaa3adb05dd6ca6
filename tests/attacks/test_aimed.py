"""Each attack against a model that it must break and the plain one does not."""

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks import (
    FarStartsAttack,
    HiddenDistanceAttack,
    KitchenSinkAttack,
    ProjectedAscent,
    ScaledLogitsAttack,
    TargetedMarginAttack,
    TransferAttack,
)
from art_sensreg.attacks.base.norms import NORMS, Ball, perturbation_norm
from art_sensreg.attacks.base.other_classes import likely_classes
from tests.attacks.trained import (
    LINF,
    Detached,
    Noisy,
    Plateau,
    RoundedLogits,
    Saturated,
    Scaled,
    accuracy,
    points,
    trained,
    victim_of,
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


# --- what each is for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scaled", "rounded", "detached", "plateau"])
def test_plain_ascent_is_fooled_by_the_broken_models(name):
    """Otherwise the tests below would show nothing; the model itself, without its fault, is at 0.13."""
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
def test_aimed_attack_breaks_the_model_it_is_made_for(name, attack, settings, most):
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
def test_seeded_and_without_a_trace(name):
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
    """Nothing hidden, one other class, one image, no other to move towards."""
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


# --- scales, targets, starts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("scaled", 1), ("tiny", 1), ("saturated", 2)],  # 0: cross-entropy, 1: unit scale, 2: float64
)
def test_each_kind_of_scaling_does_its_part(name, kind):
    model = {"scaled": Scaled(trained(), 1000.0), "tiny": Scaled(trained(), 1e-12), "saturated": Saturated(trained())}
    classifier, (x, y) = wrap(model[name]), points()
    right = classifier.predict(x).argmax(axis=1) == y
    attack = ScaledLogitsAttack(classifier, scales=(1.0,), **LINF)
    assert attack.attempts == 3
    broken = [
        (attack.attempt(victim_of(classifier, x[right], y[right], restart=number)).margin > 0).double().mean()
        for number in range(kind + 1)
    ]
    assert broken[kind] > 0.7
    assert all(former < broken[kind] - 0.1 for former in broken[:-1]), broken


def test_scales_multiply_the_logits():
    classifier, (x, y) = wrap(trained()), points(10)
    attack = ScaledLogitsAttack(classifier, scales=(1, 10.0), double=False, nb_restarts=2)
    assert attack.attempts == 6
    logits = classifier.model(torch.from_numpy(x))
    for restart, scale in enumerate((1, 1, 10, 10)):
        loss = attack.get_loss_fn(victim_of(classifier, x, y, restart=restart))(torch.from_numpy(x))[0]
        expected = nn.functional.cross_entropy(scale * logits, torch.from_numpy(y), reduction="none")
        assert torch.allclose(loss, expected, atol=1e-5)


class Single(nn.Module):
    """Refuses to compute in float64."""

    def __init__(self):
        super().__init__()
        self.model = trained()

    def forward(self, x):
        return self.model(x.float())


def test_model_that_is_no_float64_is_attacked_as_it_is(caplog):
    classifier, (x, y) = wrap(Single()), points(40)
    made = ScaledLogitsAttack(classifier, scales=(), **LINF).generate(x, y)
    assert "No float64 copy of the model" in caplog.text
    assert accuracy(classifier, made, y) < 0.3


def test_float64_copy_leaves_the_model_alone():
    model, (x, y) = trained(), points(10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ScaledLogitsAttack(wrap(model), scales=(), **LINF).generate(x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert next(model.parameters()).dtype == torch.float32


def test_targets_are_the_most_likely_other_classes():
    classifier, (x, y) = wrap(trained()), points(10)
    attack = TargetedMarginAttack(classifier, nb_targets=3, nb_restarts=2)
    assert attack.attempts == 6
    logits = classifier.predict(x)
    order = np.argsort(-np.where(np.eye(10, dtype=bool)[y], -np.inf, logits), axis=1)
    assert np.array_equal(likely_classes(classifier.model, torch.from_numpy(x), torch.from_numpy(y)), order[:, :9])
    for restart, number in enumerate((0, 0, 1, 1, 2, 2)):
        loss = attack.get_loss_fn(victim_of(classifier, x, y, restart=restart))(torch.from_numpy(x))[0]
        rows = np.arange(10)
        assert np.allclose(loss.detach(), logits[rows, order[:, number]] - logits[rows, y], atol=1e-5)


def test_number_of_targets():
    def classifier(classes):
        return SensRegClassifier(nn.Linear(3, classes), nn.CrossEntropyLoss(), (3,), classes, device_type="cpu")

    assert TargetedMarginAttack(classifier(100)).attempts == 9
    assert TargetedMarginAttack(classifier(4)).attempts == 3
    assert TargetedMarginAttack(classifier(4), nb_targets=3).attempts == 3
    with pytest.raises(ValueError, match="`nb_targets` is 4; expected at most 3, the number of other classes"):
        TargetedMarginAttack(classifier(4), nb_targets=4)


def test_far_starts_are_far():
    classifier, (x, y) = wrap(trained()), points(40)
    attack = FarStartsAttack(classifier, eps=0.1)
    sizes, towards = [], None
    for restart in range(3):
        victim = victim_of(classifier, x, y, restart=restart, eps=0.1)
        start = attack.get_start(victim)
        sizes.append((start - victim.x).abs())
        towards = start if restart == 1 else towards
    # Pixels at 0 stay there in every second corner, and in a step towards an image that is 0 there too.
    assert sizes[0][torch.from_numpy((x > 0.1) & (x < 0.9))].min() > 0.0999
    assert sizes[1].amax((1, 2, 3)).min() > 0.0999
    assert 0.03 < sizes[2].mean() < 0.07
    # No coordinate went away from the donor: each start is the projection of some image of another class.
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    for row in range(len(x)):
        others = Ball("linf", 0.1, 0.0, 1.0).project(x[row].expand_as(x[y != y[row]]), x[y != y[row]])
        assert (others - towards[row]).abs().amax((1, 2, 3)).min() < 1e-6
