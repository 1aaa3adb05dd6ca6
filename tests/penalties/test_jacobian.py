import copy
import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.penalties.forward.noise import draw_unit_sphere
from art_sensreg.penalties.jacobian import difference_squared_norm, exact_squared_norm, projected_squared_norm
from art_sensreg.randomization import randomize
from tests.penalties.helpers import Attending, by_weights, generator, slopes

PROBES = 20_000


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 4)).double()


def jacobians(net, x):
    return torch.stack([jacobian(lambda row: net(row[None])[0], row) for row in x])


def check_mean_and_variance(estimates, truth, relative_variance):
    n = len(estimates)
    assert abs(estimates.mean() - truth) < 4 * estimates.std() / math.sqrt(n)
    variance = estimates.var()
    error = ((estimates - estimates.mean()).pow(4).mean() - variance**2).sqrt() / math.sqrt(n)
    assert abs(variance - relative_variance * truth**2) < 4 * error


def rho(matrix):
    gram = matrix @ matrix.T
    return gram.pow(2).sum() / gram.trace() ** 2


def test_exact_is_the_full_jacobian(net):
    x = torch.rand(7, 6, dtype=torch.float64)
    norms = jacobians(net, x).pow(2).sum((1, 2))
    leaf = x.clone().requires_grad_()
    assert torch.allclose(exact_squared_norm(net(leaf), leaf), norms, atol=1e-10, rtol=0)
    assert torch.isclose(JacobianPenalty(estimator="exact")(net, x), norms.mean() / 2, atol=1e-10, rtol=0)
    root = JacobianPenalty(estimator="exact", squared=False)(net, x)
    assert torch.isclose(root, norms.sqrt().mean(), atol=1e-10, rtol=0)


def test_projection_mean_and_variance(net):
    row = torch.rand(6, dtype=torch.float64)
    matrix = jacobian(lambda r: net(r[None])[0], row)
    leaf = row.expand(PROBES, 6).clone().requires_grad_()
    classes = 4
    relative = 2 * (classes * rho(matrix) - 1) / (classes + 2)
    check_mean_and_variance(projected_squared_norm(net(leaf), leaf).detach(), matrix.pow(2).sum(), relative)


@pytest.mark.parametrize("sigma", [1e-3, 1e-4])
def test_finite_difference_mean_and_variance(net, sigma):
    row = torch.rand(6, dtype=torch.float64)
    matrix = jacobian(lambda r: net(r[None])[0], row)
    x = row.expand(PROBES, 6)
    noisy = net(x + sigma * torch.randn(PROBES, 6, dtype=torch.float64))
    check_mean_and_variance(
        difference_squared_norm(noisy, net(x), sigma).detach(), matrix.pow(2).sum(), 2 * rho(matrix)
    )


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "projection"},
        pytest.param({"estimator": "finite_difference", "sigma": 1e-3}, marks=pytest.mark.slow),
    ],
)
def test_many_probes_converge_to_exact(net, options):
    x, repeats = torch.rand(3, 6, dtype=torch.float64).repeat(2, 1), 200  # two draws of each image in a call
    estimates = torch.stack([JacobianPenalty(probes=5, **options)(net, x) for _ in range(repeats)]).detach()
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - JacobianPenalty(estimator="exact")(net, x)) < 4 * error
    single = torch.stack([JacobianPenalty(probes=1, **options)(net, x) for _ in range(repeats)]).detach()
    assert 3 < single.var() / estimates.var() < 8  # five probes: a fifth of the variance


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize(
    "penalty",
    [
        {"estimator": "exact"},
        {"estimator": "projection", "probes": 2},
        {"estimator": "finite_difference", "sigma": 0.1},
    ],
)
def test_gradients(net, penalty, squared):
    x = torch.rand(3, 6, dtype=torch.float64)
    penalised = JacobianPenalty(squared=squared, **penalty)
    value, leaves = by_weights(net, lambda model: penalised(model, x, generator=generator()))
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


def test_the_root_has_a_finite_gradient_at_zero():
    net = nn.Linear(3, 2)
    nn.init.zeros_(net.weight)
    JacobianPenalty(estimator="exact", squared=False)(net, torch.rand(4, 3)).backward()
    assert torch.isfinite(net.weight.grad).all()


def test_a_constant_model_has_value_0():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.logits.expand(len(x), 2)

    assert JacobianPenalty(estimator="projection")(Constant(), torch.rand(4, 3)) == 0


@pytest.mark.parametrize("estimator", ["exact", "projection"])
def test_it_can_be_measured_without_gradients(net, estimator):
    x = torch.rand(3, 6, dtype=torch.float64)
    with torch.no_grad():
        value = JacobianPenalty(estimator=estimator)(net, x)
    assert not value.requires_grad
    assert value > 0


def test_shared_noise_needs_somebody_to_share_it_with(net):
    with pytest.raises(ValueError, match=r"`sigma` of JacobianPenalty\(.*\) is None, which shares the noise"):
        JacobianPenalty()(net, torch.rand(3, 6).double())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight": -1}, ValueError, r"`weight` is -1; expected a finite number of at least 0"),
        ({"weight": float("nan")}, ValueError, r"`weight` is nan"),
        ({"weight": "big"}, TypeError, r"`weight` is 'big'"),
        ({"sigma": -0.1}, ValueError, r"`sigma` is -0.1; expected a finite number above 0"),
        ({"sigma": 0.1, "estimator": "exact"}, ValueError, r"`sigma` is 0.1; expected None with estimator='exact'"),
        ({"estimator": "hutchinson"}, ValueError, r"`estimator` is 'hutchinson'; expected one of finite_difference"),
        ({"probes": 0}, ValueError, r"`probes` is 0; expected a whole number of at least 1"),
        ({"probes": 1.5}, TypeError, r"`probes` is 1.5"),
        ({"sigmas": 1}, TypeError, r"sigmas"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        JacobianPenalty(**options)


def test_repr_makes_the_penalty_again():
    penalty = JacobianPenalty(weight=0.2, estimator="projection", probes=3)
    assert eval(repr(penalty)) == penalty
    assert eval(repr(SensitivityPenalty(sigma=(0.1, 0.2), layers=["0"]))) == SensitivityPenalty(
        sigma=(0.1, 0.2), layers=["0"]
    )


@pytest.mark.parametrize(
    "penalty",
    [
        SensitivityPenalty(),
        SensitivityPenalty(clip=True, sigma=(0.1, 0.4), noise="sphere"),
        JacobianPenalty(estimator="exact"),
        JacobianPenalty(estimator="projection"),
        JacobianPenalty(sigma=0.2, squared=False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gradients_by_the_input(net, penalty, batch_norm):
    if batch_norm:
        net = nn.Sequential(net[0], nn.BatchNorm1d(8), *net[1:]).double().train()
    x = torch.rand(4, 6, dtype=torch.float64, requires_grad=True)

    def value(x):
        return penalty(net, x, generator=torch.Generator().manual_seed(0), clip_values=(0.0, 1.0))

    assert torch.autograd.gradcheck(value, x, fast_mode=True)
    frozen = penalty(net, x.detach(), generator=torch.Generator().manual_seed(0), clip_values=(0.0, 1.0))
    assert torch.isclose(value(x), frozen)


def full_jacobian(model, x, seed):
    """`dz_i/dx_i` for each example, the draws of the model being those of a seed."""

    def logits(x):
        torch.manual_seed(seed)
        return model(x)

    return torch.stack([row[:, i] for i, row in enumerate(torch.autograd.functional.jacobian(logits, x))])


@pytest.mark.parametrize("estimator", ["projection", "exact"])
def test_jacobians_of_a_random_model_with_batch_norm(estimator):
    """With the draws of the pass, at the statistics of the batch."""
    torch.manual_seed(0)
    x = torch.rand(6, 5).double()
    model = randomize(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)), kind="rse")
    model = model.double().train()
    penalty = JacobianPenalty(estimator=estimator)
    torch.manual_seed(3)
    found = penalty(model, x, generator=torch.Generator().manual_seed(1))
    frozen = copy.deepcopy(model)
    (norm,) = (module for module in frozen.modules() if isinstance(module, nn.BatchNorm1d))
    norm.momentum = 1.0
    torch.manual_seed(3)
    frozen(x)
    norm.running_var.mul_(5 / 6)
    norm.eval()
    jacobians = full_jacobian(frozen, x, 3)
    if estimator == "projection":
        vectors = draw_unit_sphere(6, 3, x, torch.Generator().manual_seed(1))
        wanted = 3 * torch.einsum("nc,ncd->nd", vectors, jacobians).pow(2).sum(1).mean() / 2
    else:
        wanted = jacobians.pow(2).sum((1, 2)).mean() / 2
    assert torch.isclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("estimator", ["projection", "exact"])
def test_attention_is_differentiated_twice(estimator):
    torch.manual_seed(0)
    model, x = Attending().double().train(), torch.rand(4, 6).double()

    def value():
        return JacobianPenalty(estimator=estimator)(model, x, generator=torch.Generator().manual_seed(1))

    if estimator == "exact":
        assert torch.isclose(value(), full_jacobian(model, x, 0).pow(2).sum((1, 2)).mean() / 2)
    found, wanted = slopes(value, model.head.weight)
    assert wanted != 0
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("probes", [1, 3])
def test_the_nuclear_norm_of_the_differences_of_a_batch(net, probes):
    x = torch.rand(7, 6, dtype=torch.float64)
    options = {"sigma": 0.2, "probes": probes, "norm": "nuclear"}
    noise = generator()
    differences = [
        (net(x + 0.2 * torch.randn(x.shape, dtype=x.dtype, generator=noise)) - net(x)) / 0.2 for _ in range(probes)
    ]
    rows = torch.cat(differences)
    norm = torch.linalg.matrix_norm(rows, "nuc") / math.sqrt(len(rows))
    found = JacobianPenalty(squared=False, **options)(net, x, generator=generator())
    assert torch.isclose(found, norm, rtol=1e-8)
    assert torch.isclose(JacobianPenalty(**options)(net, x, generator=generator()), norm**2 / 2, rtol=1e-8)
    assert norm**2 > rows.pow(2).sum() / len(rows)  # the Frobenius norm


@pytest.mark.parametrize("squared", [True, False])
def test_the_gradient_of_the_nuclear_norm(net, squared):
    x = torch.rand(5, 6, dtype=torch.float64)
    penalty = JacobianPenalty(sigma=0.2, norm="nuclear", squared=squared)
    value, leaves = by_weights(net, lambda model: penalty(model, x, generator=generator()))
    assert torch.autograd.gradcheck(value, leaves, fast_mode=True)


def test_the_nuclear_norm_of_one_direction_is_the_frobenius_norm_whatever_the_batch_size():
    net = nn.Linear(6, 4, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.outer(torch.tensor([1.0, -2.0, 0.0, 0.5]), torch.ones(6)))
    for rows in (5, 50):
        x = torch.rand(rows, 6, dtype=torch.float64)
        values = [
            JacobianPenalty(sigma=0.2, norm=norm)(net, x, generator=generator()) for norm in ("nuclear", "frobenius")
        ]
        assert torch.isclose(*values)


def test_a_nuclear_norm_needs_differences():
    with pytest.raises(ValueError, match=r"`norm` is 'nuclear' with estimator='projection'; expected 'finite_diff"):
        JacobianPenalty(norm="nuclear", estimator="projection")
    with pytest.raises(ValueError, match=r"`norm` is 'l1'; expected one of frobenius, nuclear"):
        JacobianPenalty(norm="l1")
