import numpy as np
import pytest
import torch
from scipy import optimize, stats

from art_sensreg.attacks.base.norms import NORMS, Ball, norm_name, perturbation_norm
from art_sensreg.attacks.base.sizes import diameter

BOX = {"low": 0.0, "high": 1.0}


def images(n=50, d=12, seed=0):
    return torch.rand(n, 1, 3, d // 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (np.inf, "linf"),
        (float("inf"), "linf"),
        ("inf", "linf"),
        (2, "l2"),
        (2.0, "l2"),
        (np.int64(1), "l1"),
        ("l1", "l1"),
    ],
)
def test_norms_by_arts_names_and_ours(given, name):
    assert norm_name(given) == name


@pytest.mark.parametrize("given", [3, "max", None, [2], 0])
def test_unknown_norm_is_refused(given):
    with pytest.raises(ValueError, match=r"`norm` is .*; expected one of linf"):
        norm_name(given)


def euclidean_projection(delta, norm, eps):
    """The nearest point of the ball, by a general solver: delta = positive part - negative part."""
    d = len(delta)

    def distance(parts):
        return ((parts[:d] - parts[d:] - delta) ** 2).sum()

    if norm == "l1":
        room = {"type": "ineq", "fun": lambda parts: eps - parts.sum()}
    else:
        room = {"type": "ineq", "fun": lambda parts: eps**2 - ((parts[:d] - parts[d:]) ** 2).sum()}
    found = optimize.minimize(
        distance, np.full(2 * d, 0.1 * eps / d), bounds=[(0, None)] * 2 * d, constraints=[room], method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    return found.x[:d] - found.x[d:]


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("eps", [0.3, 1.0, 50.0])
def test_projection_is_the_nearest_point_of_the_ball(norm, eps):
    rng = np.random.default_rng(0)
    for _ in range(4):
        delta = rng.normal(size=5)
        ours = Ball(norm, eps).project(torch.zeros(1, 5, dtype=torch.float64), torch.tensor(delta)[None])[0].numpy()
        assert np.allclose(ours, euclidean_projection(delta, norm, eps), atol=2e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_keeps_what_is_allowed_and_is_idempotent(norm):
    x, ball = images(), Ball(norm, 0.4, **BOX)
    inside = x + 0.9 * (ball.inside(x) - x)
    assert torch.allclose(ball.project(x, inside), inside, atol=1e-6)
    once = ball.project(x, x + 3 * torch.randn_like(x))
    assert torch.allclose(ball.project(x, once), once, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["project", "inside", "border"])
@pytest.mark.parametrize("width", [1.0, 255.0])
def test_budget_and_box_are_never_exceeded(norm, kind, width):
    x = width * images(200).round(decimals=1)  # some pixels on the border of the box
    ball = Ball(norm, 0.4 * width, 0.0, width)
    made = ball.project(x, x + width * torch.randn_like(x)) if kind == "project" else getattr(ball, kind)(x)
    assert perturbation_norm(made - x, norm).max() <= ball.eps + 1e-6 * width
    assert made.min() >= 0
    assert made.max() <= width


def test_box_for_each_channel():
    x = torch.full((2, 3, 2, 2), 0.5)
    low, high = torch.tensor([0.4, 0.45, 0.5]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    made = Ball("linf", 0.3, low, high).project(x, x + 1)
    assert torch.equal(made, high.expand_as(x))


@pytest.mark.parametrize(("norm", "dual"), [("linf", "l1"), ("l2", "l2")])
def test_steepest_direction_reaches_the_dual_norm(norm, dual):
    gradient = torch.randn(20, 3, 4)
    direction = Ball(norm, 1.0).steepest(gradient)
    assert torch.allclose(perturbation_norm(direction, norm), torch.ones(20))
    assert torch.allclose((gradient * direction).sum((1, 2)), perturbation_norm(gradient, dual), rtol=1e-5)


def test_steepest_direction_in_l1_is_spread_over_the_largest_fiftieth():
    gradient = torch.randn(20, 100)
    direction = Ball("l1", 1.0).steepest(gradient)
    assert torch.allclose(direction.abs().sum(1), torch.ones(20))
    assert ((direction != 0).sum(1) == 2).all()
    largest = gradient.abs().topk(2, dim=1).values.mean(1)
    assert torch.allclose((gradient * direction).sum(1), largest, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_direction_of_tiny_and_zero_gradients(norm):
    gradient = torch.randn(4, 30)
    direction = Ball(norm, 1.0).steepest(gradient)
    # The squares of 1e-30 are zero in float32.
    assert torch.allclose(Ball(norm, 1.0).steepest(1e-30 * gradient), direction, atol=1e-4)
    assert not Ball(norm, 1.0).steepest(0 * gradient).any()


def test_gradient_that_points_out_of_the_box_is_left_out():
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
    gradient = torch.tensor([[-1.0, 1.0, 1.0, -1.0, 2.0]])
    assert Ball("l1", 1.0, **BOX).inward(x, gradient).tolist() == [[0.0, 1.0, 0.0, -1.0, 2.0]]
    assert torch.equal(Ball("l1", 1.0).inward(x, gradient), gradient)


@pytest.mark.parametrize("norm", NORMS)
def test_border_is_the_sphere(norm):
    x = torch.zeros(100, 40)
    assert torch.allclose(perturbation_norm(Ball(norm, 0.7).border(x), norm), torch.full((100,), 0.7))


def test_border_in_linf_is_a_corner():
    assert torch.equal(Ball("linf", 0.5).border(torch.zeros(5, 7)).abs(), torch.full((5, 7), 0.5))


@pytest.mark.parametrize(
    ("norm", "law"),
    # Of a uniform point on the sphere in d dimensions: |u_i| in L1, u_i^2 in L2.
    [("l1", stats.beta(1, 7)), ("l2", stats.beta(0.5, 3.5))],
)
def test_border_is_uniform(norm, law):
    made = Ball(norm, 1.0).border(torch.zeros(4000, 8), torch.Generator().manual_seed(1))[:, 0].double()
    sizes = made.abs() if norm == "l1" else made.pow(2)
    assert stats.kstest(sizes.numpy(), law.cdf).pvalue > 1e-3
    assert abs((made > 0).double().mean() - 0.5) < 0.04


def test_starts_inside_are_uniform_in_linf_and_of_uniform_radius_otherwise():
    generator = torch.Generator().manual_seed(1)
    made = Ball("linf", 0.5).inside(torch.zeros(3000, 4), generator)[:, 0]
    assert stats.kstest(made.numpy(), stats.uniform(-0.5, 1.0).cdf).pvalue > 1e-3
    for norm in ("l2", "l1"):
        radius = perturbation_norm(Ball(norm, 0.5).inside(torch.zeros(3000, 4), generator), norm)
        assert stats.kstest(radius.numpy(), stats.uniform(0.0, 0.5).cdf).pvalue > 1e-3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["inside", "border"])
def test_starts_come_from_the_given_generator_alone(norm, kind):
    x, ball = images(), Ball(norm, 0.3, **BOX)
    before = torch.get_rng_state()
    made = [getattr(ball, kind)(x, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize("norm", ["l3", 3, None, "-inf", "-2", 10**400, np.timedelta64(2, "s")])
def test_what_is_no_norm_is_refused(norm):
    with pytest.raises(ValueError, match="`norm` is"):
        norm_name(norm)
    with pytest.raises(ValueError, match="`norm` is"):
        diameter(norm, (4,), 0.0, 1.0)
