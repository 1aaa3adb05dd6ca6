"""The row `ibp`: its initialisation, losses and schedule against their formulas, and what it certifies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.benchmark.defences import DEFENCES, NotApplicable
from art_sensreg.benchmark.defences.bounds import Bounds, Intervals, interval_bounds
from art_sensreg.benchmark.defences.from_art.interval_bounds import certify_ibp
from art_sensreg.benchmark.defences.ibp import (
    IBP_OPTIONS,
    IntervalLoss,
    IntervalSchedule,
    ScaledCrossEntropy,
    certify,
    interval_init,
    own_network,
    regularisers,
)
from art_sensreg.benchmark.defences.registry import resolve_options
from art_sensreg.training.callbacks import TrainingState
from tests.benchmark.defences.from_art.training import accuracy, broken, small_spec, trained
from tests.conftest import same_weights, weights_of

ROW = DEFENCES["ibp"]
OPTIONS = {**IBP_OPTIONS, "eps": 0.05, "width": 4, "least_steps": 1}


def test_intervals_keep_their_width_from_layer_to_layer_at_the_start() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 900), nn.ReLU(), nn.Linear(900, 4)
    )
    last = model[-1].weight.clone()
    interval_init(model)
    assert model[0].weight.std().item() == pytest.approx(math.sqrt(2 * math.pi) / 27, rel=0.1)
    assert model[3].weight.std().item() == pytest.approx(math.sqrt(2 * math.pi) / 1152, rel=0.01)
    assert torch.equal(model[-1].weight, last)
    bounds = interval_bounds(model, torch.rand(4, 3, 8, 8) / 2 + 0.25, torch.zeros(4, dtype=torch.long), 0.01)
    # Of a ReLU that is open half of the time, half of the width is left, which twice the mean of |w| makes up for.
    ratios = [unit.radius.mean().item() / 0.01 for unit in bounds.preactivations]
    assert ratios[0] == pytest.approx(2, rel=0.2)
    assert ratios[1] == pytest.approx(ratios[0], rel=0.35)


def test_the_bounds_are_regularised_before_eps_rises() -> None:
    """At a radius of 0 all bounds are equally tight, and the gradient of that would be 0."""
    torch.manual_seed(0)
    model = own_network((1, 8, 8), 10, 4)
    interval_init(model)
    loss = IntervalLoss()
    loss.reg_weight = 0.5
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    value = loss(model, x, y)
    loss.eps = 1e-6
    assert value.item() == pytest.approx(loss(model, x, y).item())
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert all(gradient.abs().max() > 1e-4 for gradient in torch.autograd.grad(value, weights))


def test_the_regularisers_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    centres = [rng.normal(0.5, 1.0, (6, 20)), rng.normal(-1.0, 1.0, (6, 9))]
    radii = [rng.uniform(0, 0.8, (6, 20)), rng.uniform(0, 0.2, (6, 9))]
    image_radius = rng.uniform(0, 0.1, (6, 5))
    total = 0.0
    for centre, radius in zip(centres, radii, strict=True):
        total += max(0.0, 0.5 - image_radius.mean() / radius.mean()) / 0.5
        active, inactive = centre[centre - radius > 0], centre[centre + radius < 0]
        assert min(len(active), len(inactive)) > 0
        alpha = active.sum() / -inactive.sum()
        beta = ((active - centre.mean()) ** 2).sum() / ((inactive - centre.mean()) ** 2).sum()
        total += (max(0.0, 0.5 - min(alpha, 1 / alpha)) + max(0.0, 0.5 - min(beta, 1 / beta))) / 0.5
    units = [Intervals(torch.tensor(c), torch.tensor(r)) for c, r in zip(centres, radii, strict=True)]
    images = Intervals(torch.zeros(6, 5), torch.tensor(image_radius))
    found = regularisers(Bounds(images, units, torch.zeros(6, 3, dtype=torch.float64)))
    assert found.item() == pytest.approx(total / 2)


def test_a_layer_without_active_units_has_finite_gradients() -> None:
    for shift in (-9.0, 0.0, 9.0):  # none active; all may be either; none inactive
        centre = torch.zeros(4, 3).add(shift).requires_grad_(True)
        unit = Intervals(centre, torch.ones(4, 3))
        value = regularisers(Bounds(Intervals(torch.zeros(4, 2), torch.ones(4, 2)), [unit], torch.zeros(4, 2)))
        (gradient,) = torch.autograd.grad(value, centre, allow_unused=True)
        assert value.isfinite()
        assert gradient is None or gradient.isfinite().all()


def test_without_a_box_the_certified_loss_is_cross_entropy() -> None:
    torch.manual_seed(0)
    model, x, y = own_network((1, 8, 8), 10, 2).double(), torch.rand(5, 1, 8, 8).double(), torch.arange(5)
    loss = IntervalLoss(label_smoothing=0.1)
    assert loss(model, x, y) == 0
    loss.factor = 0.5
    plain = nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
    assert torch.allclose(loss(model, x, y), 0.5 * plain)
    loss.eps = 0.1
    assert loss(model, x, y) > 0.5 * plain
    without = loss(model, x, y)
    loss.reg_weight = 0.5
    added = 0.5 * regularisers(interval_bounds(model, x, y, 0.1))
    assert torch.allclose(loss(model, x, y), without + added)


def test_eps_and_weights_follow_the_schedule() -> None:
    options = {**OPTIONS, "eps_factor": 2.0, "kappa": 0.5, "warmup": 0.1, "ramp": 0.4, "reg_weight": 0.5}
    clean, certified = ScaledCrossEntropy(), IntervalLoss()
    schedule = IntervalSchedule(options, 100, clean, certified)
    state = TrainingState(model=nn.Linear(1, 1), optimizer=None)  # type: ignore[arg-type]
    expected = {0: 0.0, 10: 0.0, 20: 0.25, 30: 0.5, 50: 1.0, 99: 1.0}
    for step, risen in expected.items():
        state.total_steps = step
        (schedule.on_step if step else schedule.on_start)(state)
        assert certified.eps == pytest.approx(0.1 * risen)
        assert clean.factor == pytest.approx(1 - 0.5 * risen)
        assert certified.factor == pytest.approx(1 - clean.factor)
        assert certified.reg_weight == pytest.approx(0.5 * (1 - risen))
    logits, y = torch.randn(3, 4), torch.arange(3)
    assert torch.allclose(clean(logits, y), 0.5 * nn.functional.cross_entropy(logits, y))


@pytest.fixture(scope="module")
def certified_model(digits: Any) -> Any:
    spec = small_spec(digits, n=600, model="cnn-small", eps=0.03, epochs=8)
    return spec, trained(ROW.train, spec, {**OPTIONS, "eps": 0.03}).model


def test_it_certifies_and_no_certified_image_is_broken(digits: Any, certified_model: Any) -> None:
    spec, model = certified_model
    x, y = digits.x_test[:150], digits.y_test[:150]
    certificate = ROW.certificate
    assert certificate is not None
    found = certificate.certify(spec, model, x, y, 0.03, OPTIONS)
    assert (found.shape, found.dtype) == ((150,), np.dtype(bool))
    assert found.mean() > 0.35
    assert not (found & broken(spec, model, x, y)).any()
    right = certify(spec, model, x, y, 0.0, OPTIONS)
    assert np.array_equal(right, spec.classifier(model).predict(x).argmax(1) == y)


def test_the_net_of_the_run_is_an_option(digits: Any) -> None:
    spec = small_spec(digits, n=300, epochs=3, eps=0.02)
    options = {**OPTIONS, "net": "run"}
    model = trained(ROW.train, spec, options).model
    assert accuracy(spec, model) > 0
    x, y = digits.x_test[:100], digits.y_test[:100]
    ours, arts = certify(spec, model, x, y, 0.02, options), certify_ibp(spec, model, x, y, 0.02, {})
    # The last layer is elided: whatever ART certifies is certified.
    assert (ours | ~arts).all()
    assert ours.sum() > arts.sum() > 0
    with pytest.raises(NotApplicable, match="through no PreActBlock: see the option `net`"):
        ROW.train(small_spec(digits, model="resnet-small"), options)
    with pytest.raises(NotApplicable, match="this run is in l2"):
        ROW.train(small_spec(digits, norm="l2"), options)


def test_a_run_that_was_killed_ends_as_one_that_was_not(digits: Any, tmp_path: Any, monkeypatch: Any) -> None:
    spec = small_spec(digits, n=64, epochs=3, eps=0.05)
    whole = trained(ROW.train, spec, OPTIONS)
    resumable = small_spec(digits, n=64, epochs=3, eps=0.05, checkpoint_dir=tmp_path / "run")
    on_step = IntervalSchedule.on_step

    def killed(self: IntervalSchedule, state: TrainingState) -> None:
        on_step(self, state)
        if state.total_steps == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(IntervalSchedule, "on_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(ROW.train, resumable, OPTIONS)
    monkeypatch.setattr(IntervalSchedule, "on_step", on_step)
    assert same_weights(weights_of(trained(ROW.train, resumable, OPTIONS)), weights_of(whole))


def test_a_last_batch_of_one_image_is_left_out(digits: Any) -> None:
    assert trained(ROW.train, small_spec(digits, n=33, epochs=1, eps=0.05), OPTIONS)
    many = small_spec(digits, n=40, epochs=1, eps=0.05)
    assert trained(ROW.train, many, {**OPTIONS, "least_steps": 5})


def test_a_last_image_alone_leaves_the_schedule_whole(digits: Any, monkeypatch: Any) -> None:
    reached = []
    set_values = IntervalSchedule._set

    def noted(self: Any, step: int) -> None:
        set_values(self, step)
        reached.append((step, self._steps, self._certified.eps))

    monkeypatch.setattr(IntervalSchedule, "_set", noted)
    trained(
        ROW.train, small_spec(digits, n=33, epochs=8, eps=0.05), {**OPTIONS, "eps": 0.05, "warmup": 0.0, "ramp": 1.0}
    )
    step, steps, eps = reached[-1]
    assert step == steps == 8
    assert eps == pytest.approx(0.05 * OPTIONS["eps_factor"])


def test_given_weights_are_kept_or_refused(digits: Any, tmp_path: Any) -> None:
    plain = small_spec(digits, n=40)
    file = tmp_path / "weights.pt"
    torch.save(plain.new_model().state_dict(), file)
    spec = small_spec(digits, n=40, seed=3, weights=str(file))
    kept, given = ROW.new_model(spec, {**OPTIONS, "net": "run"}).state_dict(), plain.new_model().state_dict()
    assert all(torch.equal(kept[name], value) for name, value in given.items())
    with pytest.raises(NotApplicable, match="trains one of its own"):
        ROW.train(spec, OPTIONS)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"net": "huge"}, "`net` is 'huge'; expected one of own, run"), ({"net": 3}, "`net` is 3; expected one of own"),
     ({"kappa": 1.5}, "from 0 to 1"), ({"ramp": -0.1}, "from 0 to 1"), ({"eps_factor": 0.0}, "above 0"),
     ({"warmup": 0.8, "ramp": 0.8}, "at most 1 together"),
     ({"width": 0}, "at least 1"), ({"width": "wide"}, "whole number")],
)  # fmt: skip
def test_options_out_of_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        resolve_options("ibp", given, {"eps": 0.1})
