"""The truth that attacks are held against: closed forms, a general convex solver, and search at random."""

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from art_sensreg.attacks.base.norms import Ball
from art_sensreg.auditing.checks.linear_truth import linear_margins, linear_robust_accuracy

NORMS = ("linf", "l2", "l1")
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def margins_of(weight, bias, x, y, eps, norm):
    return linear_margins(weight, bias, x, y, Ball(norm, eps, 0, 1))


def robust_accuracy_of(weight, bias, x, y, eps, norm):
    return linear_robust_accuracy(weight, bias, x, y, Ball(norm, eps, 0, 1))


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 6)), rng.normal(size=4)
    x = rng.random((12, 6))
    x[0], x[1], x[2, :3] = 0.0, 1.0, (0.0, 1.0, 0.0)  # on the border of the box
    weight[2, 1] = weight[0, 1] = weight[1, 1]  # slopes of zero between some classes
    return weight, bias, x, rng.integers(0, 4, size=12)


def _solved_with_lp(slope, x, eps, norm):
    """Smallest slope @ delta by linear programming: delta = rise - fall, both at least 0."""
    d = len(x)
    limit = eps if norm == "linf" else None
    bounds = [(0, 1 - v if limit is None else min(1 - v, limit)) for v in x]
    bounds += [(0, v if limit is None else min(v, limit)) for v in x]
    within = {} if norm == "linf" else {"A_ub": np.ones((1, 2 * d)), "b_ub": [eps]}
    return linprog(np.concatenate([slope, -slope]), bounds=bounds, **within).fun


def _solved_with_slsqp(slope, x, eps):
    found = minimize(
        lambda delta: slope @ delta,
        np.zeros(len(x)),
        jac=lambda delta: slope,
        bounds=list(zip(-x, 1 - x, strict=True)),
        constraints={"type": "ineq", "fun": lambda d: eps**2 - d @ d, "jac": lambda d: -2 * d},
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return found.fun


@pytest.mark.parametrize("eps", [0.05, 0.3, 0.9, 1.6])
@pytest.mark.parametrize("norm", NORMS)
def test_equals_a_general_convex_solver(problem, norm, eps):
    weight, bias, x, y = problem
    expected = []
    for image, label in zip(x, y, strict=True):
        margins = []
        for other in set(range(4)) - {label}:
            slope = weight[label] - weight[other]
            clean = slope @ image + bias[label] - bias[other]
            solve = _solved_with_slsqp if norm == "l2" else lambda *args: _solved_with_lp(*args, norm)
            margins.append(clean + solve(slope, image, eps))
        expected.append(min(margins))
    tolerance = 1e-6 if norm == "l2" else 1e-9  # the solvers' own
    np.testing.assert_allclose(margins_of(weight, bias, x, y, eps, norm), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm", NORMS)
def test_no_random_perturbation_undercuts_it_and_some_come_near(norm):
    rng = np.random.default_rng(1)
    weight, bias, x = rng.normal(size=(3, 2)), rng.normal(size=3), rng.random((5, 2))
    y = rng.integers(0, 3, size=5)
    delta = rng.uniform(-0.4, 0.4, size=(100_000, 2))
    size = np.linalg.norm(delta, ord=ORDER[norm], axis=1)
    delta = np.concatenate([delta[size <= 0.4], delta * (0.4 / size)[:, None]])
    truth = margins_of(weight, bias, x, y, 0.4, norm)
    for image, label, smallest in zip(x, y, truth, strict=True):
        inside = image + delta
        logits = inside[((inside >= 0) & (inside <= 1)).all(axis=1)] @ weight.T + bias
        margins = logits[:, label] - np.delete(logits, label, axis=1).max(axis=1)
        assert margins.min() >= smallest - 1e-12
        assert margins.min() <= smallest + 0.02


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_box_each_class_loses_eps_times_the_dual_norm(problem, norm):
    weight, bias, x, y = problem
    logits = x @ weight.T + bias
    lost = 0.7 * np.linalg.norm(weight[y][:, None] - weight[None], ord=DUAL[norm], axis=2)
    margins = logits[np.arange(12), y][:, None] - logits - lost
    margins[np.arange(12), y] = np.inf
    expected = margins.min(axis=1)
    for clip in ((), (-np.inf, np.inf), (-10.0, 10.0)):
        found = linear_margins(weight, bias, x, y, Ball(norm, 0.7, *clip))
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_eps_zero_is_the_clean_margin_and_a_huge_one_any_image(problem, norm):
    weight, bias, x, y = problem
    logits = x @ weight.T + bias
    others = np.where(np.eye(4, dtype=bool)[y], -np.inf, logits).max(axis=1)
    clean = logits[np.arange(12), y] - others
    np.testing.assert_allclose(margins_of(weight, bias, x, y, 0.0, norm), clean, atol=1e-12)
    slopes = weight[y][:, None] - weight[None]
    anywhere = np.minimum(slopes, 0).sum(axis=2) + bias[y][:, None] - bias
    anywhere[np.arange(12), y] = np.inf
    for eps in (6.0, 1e6, 1e150):
        np.testing.assert_allclose(margins_of(weight, bias, x, y, eps, norm), anywhere.min(axis=1), atol=1e-12)


def test_larger_balls_hold_smaller_ones(problem):
    weight, bias, x, y = problem
    for norm in NORMS:
        curve = np.array([margins_of(weight, bias, x, y, eps, norm) for eps in np.linspace(0, 2, 21)])
        assert (np.diff(curve, axis=0) <= 1e-12).all()
    margins = {norm: margins_of(weight, bias, x, y, 0.3, norm) for norm in NORMS}
    assert (margins["linf"] <= margins["l2"]).all()
    assert (margins["l2"] <= margins["l1"]).all()


def test_units_scale(problem):
    weight, bias, x, y = problem
    for norm in NORMS:
        unit = margins_of(weight, bias, x, y, 0.3, norm)
        bytes_ = linear_margins(weight / 255, bias, x * 255, y, Ball(norm, 0.3 * 255, 0, 255))
        np.testing.assert_allclose(unit, bytes_, atol=1e-10)
        images = linear_margins(weight, bias, x.reshape(12, 1, 2, 3), y, Ball(norm, 0.3, np.zeros(6), np.ones(6)))
        np.testing.assert_array_equal(unit, images)


@pytest.mark.parametrize(("norm", "expected"), [("linf", 0.2), ("l2", 0.8 - 0.3 * np.sqrt(2)), ("l1", 0.5)])
def test_two_pixels(norm, expected):
    margins = margins_of(np.eye(2), np.zeros(2), np.array([[0.9, 0.1]]), np.array([0]), 0.3, norm)
    assert margins == pytest.approx(expected)


def test_robust_accuracy_counts_margins_above_zero():
    x, y = np.array([[0.75, 0.25], [0.5, 0.25], [0.25, 0.5]]), np.array([0, 0, 0])
    assert robust_accuracy_of(np.eye(2), np.zeros(2), x, y, 0.125, "linf") == pytest.approx(1 / 3)  # the tie is lost
    assert robust_accuracy_of(np.eye(2), np.zeros(2), x, y, 0.0, np.inf) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("changed", "error", "named"),
    [
        ({"weight": np.ones(6)}, ValueError, "`weight`"),
        ({"bias": np.ones(3)}, ValueError, "`bias`"),
        ({"x": np.ones((12, 5))}, ValueError, "`x`"),
        ({"x": np.full((12, 6), np.nan)}, ValueError, "`x`"),
        ({"x": np.full((12, 6), 1.5)}, ValueError, "range of the ball"),
        ({"y": np.zeros(11, dtype=int)}, ValueError, "`y`"),
        ({"y": np.full(12, 4)}, ValueError, "`y`"),
        ({"y": np.zeros(12)}, ValueError, "`y`"),
        ({"eps": -0.1}, ValueError, "`eps`"),
        ({"eps": np.inf}, ValueError, "`eps`"),
        ({"eps": "0.1"}, TypeError, "`eps`"),
        ({"norm": "l3"}, ValueError, "`norm`"),
    ],
)
def test_wrong_arguments(problem, changed, error, named):
    arguments = dict(zip(("weight", "bias", "x", "y"), problem, strict=True)) | {"eps": 0.1, "norm": "l2"}
    with pytest.raises(error, match=named):
        margins_of(**(arguments | changed))


def test_no_images():
    assert margins_of(np.eye(2), np.zeros(2), np.zeros((0, 2)), np.zeros(0, dtype=int), 0.1, 2).shape == (0,)
    with pytest.raises(ValueError, match="`x` is empty"):
        robust_accuracy_of(np.eye(2), np.zeros(2), np.zeros((0, 2)), np.zeros(0, dtype=int), 0.1, 2)
