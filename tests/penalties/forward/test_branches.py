import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.branches import forward_branches
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.forward.row_coupling import survey


def batch_norm_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5),
        nn.GELU(),
        nn.Linear(5, 4),
    )
    return net.double().train()


def frozen_at(net, x):
    """The same net in evaluation mode, its running statistics set to those of the batch `x`."""
    frozen = copy.deepcopy(net).train()
    for module in frozen.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    n_by_layer = []

    def correct(module, inputs, output):
        n_by_layer.append(inputs[0].numel() / inputs[0].shape[1])

    handles = [
        m.register_forward_hook(correct) for m in frozen.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    frozen(x)
    for handle in handles:
        handle.remove()
    layers = [m for m in frozen.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module, n in zip(layers, n_by_layer, strict=True):
        module.running_var.mul_((n - 1) / n)  # running variances are unbiased, normalising ones are not
    return frozen.eval()


def test_batch_norm_takes_statistics_from_the_clean_examples_only():
    net, x = batch_norm_net(), torch.rand(6, 1, 4, 4).double()
    plain = copy.deepcopy(net)
    noisy = x + 0.5 * torch.randn_like(x)
    passed = forward_branches(net, [x, noisy])
    assert torch.allclose(passed.logits[0], plain(x), atol=1e-12)
    for name, value in plain.state_dict().items():
        assert torch.allclose(net.state_dict()[name].double(), value.double(), atol=1e-12), name
    assert torch.allclose(passed.logits[1], frozen_at(plain, x)(noisy), atol=1e-10)


def test_the_gradient_flows_through_the_clean_statistics():
    net, x = batch_norm_net(), torch.rand(6, 1, 4, 4).double()
    noisy = x + 0.5
    first = net[0].weight

    def loss(weight):
        with torch.no_grad():
            first.copy_(weight)
        return forward_branches(net, [x, noisy], plan=ForwardPlan(updates_state=False)).logits[1].pow(2).sum()

    weight = first.detach().clone()
    (gradient,) = torch.autograd.grad(loss(weight), first)
    step = torch.zeros_like(weight)
    step[0, 0, 1, 1] = 1e-5
    numeric = (loss(weight + step) - loss(weight - step)) / 2e-5
    assert torch.isclose(gradient[0, 0, 1, 1], numeric, rtol=1e-5)


@pytest.mark.parametrize(
    "penalty", [SensitivityPenalty(), JacobianPenalty(estimator="exact"), JacobianPenalty(estimator="projection")]
)
def test_looking_at_a_penalty_moves_no_statistics(penalty):
    net, x = batch_norm_net(), torch.rand(6, 1, 4, 4).double()
    before = copy.deepcopy(net.state_dict())
    penalty(net, x)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_the_jacobian_under_batch_norm_is_that_of_single_examples_at_fixed_statistics():
    net, x = batch_norm_net(), torch.rand(6, 1, 4, 4).double()
    fixed = frozen_at(net, x)
    wanted = sum(jacobian(lambda row: fixed(row[None])[0], row).pow(2).sum() for row in x) / len(x) / 2
    assert torch.isclose(JacobianPenalty(estimator="exact")(net, x), wanted, rtol=1e-10)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Dropout1d(0.5), nn.AlphaDropout(0.5)])
def test_dropout_uses_one_mask_for_all_branches_and_a_new_one_each_time(layer):
    net = nn.Sequential(nn.Linear(4, 50), nn.ReLU(), layer, nn.Linear(50, 3)).train()
    x = torch.rand(5, 4)
    first, second, third = forward_branches(net, [x, x, x]).logits
    assert torch.allclose(first, second, atol=1e-6)
    assert torch.allclose(first, third, atol=1e-6)
    assert not torch.allclose(first, forward_branches(net, [x, x]).logits[0], atol=1e-3)


def test_the_clean_examples_get_the_mask_of_a_plain_pass():
    net, x = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5)).train(), torch.rand(5, 4)
    torch.manual_seed(3)
    plain = net(x)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.allclose(forward_branches(net, [x, x]).logits[0], plain, atol=1e-6)
    assert torch.equal(torch.rand(1), after)


def test_an_activation_overwritten_in_training_only_is_an_error():
    class Sly(nn.Module):
        def forward(self, x):
            hidden = torch.relu(x)
            return hidden.mul_(2) if self.training else hidden * 2

    net = nn.Sequential(Sly(), nn.Linear(4, 2)).train()
    with pytest.raises(RuntimeError, match="overwrites a tapped activation"):
        SensitivityPenalty()(net, torch.rand(3, 4))


class StochasticDepth(nn.Module):
    """Randomness that no rule knows of: whole rows of a residual branch are dropped."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        keep = torch.empty(len(x), 1).bernoulli_(0.5) if self.training else 1.0
        return self.last(x + keep * torch.relu(self.inner(x)))


def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (3, 8)), nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(24, 3))


class NumpyNoise(nn.Module):
    """Noise that torch's global generator does not make."""

    def __init__(self, source):
        super().__init__()
        self.first, self.last, self.source = nn.Linear(4, 8), nn.Linear(8, 3), source

    def forward(self, x):
        noise = self.source.normal(size=(len(x), 8)) if self.training else 0.0
        return self.last(torch.relu(self.first(x) + torch.as_tensor(noise, dtype=x.dtype)))


class OwnGenerator(NumpyNoise):
    def __init__(self):
        super().__init__(np.random.default_rng(0))


class GlobalNumpy(NumpyNoise):
    def __init__(self):
        super().__init__(np.random)


@pytest.mark.parametrize(
    ("make", "width"), [(StochasticDepth, 4), (transformer, 24), (OwnGenerator, 4), (GlobalNumpy, 4)]
)
def test_randomness_of_the_models_own_is_shared_by_the_branches(make, width):
    torch.manual_seed(0)
    net, x = make().train(), torch.rand(64, width)
    assert not survey(net, x).stacked
    first, second = forward_branches(net, [x, x], plan=ForwardPlan(stacked=False)).logits
    assert torch.equal(first, second)
    random = SensitivityPenalty(sigma=0.01)(net, x)
    steady = SensitivityPenalty(sigma=0.01)(net.eval(), x)
    assert random < 2 * steady  # the masks' difference would be hundreds of times as large


def test_separate_passes_move_the_random_state_and_the_statistics_once():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.depth = nn.BatchNorm1d(4), StochasticDepth()

        def forward(self, x):
            return self.depth(self.norm(x))

    net, x = Both().train(), torch.rand(6, 4)
    plain = copy.deepcopy(net)
    torch.manual_seed(1)
    logits, after = plain(x), torch.rand(1)
    torch.manual_seed(1)
    clean, noisy = forward_branches(net, [x, x + 0.1], plan=ForwardPlan(stacked=False)).logits
    assert torch.equal(torch.rand(1), after)
    assert torch.allclose(clean, logits, atol=1e-6)
    assert all(torch.allclose(a.double(), b.double()) for a, b in zip(net.buffers(), plain.buffers(), strict=True))
    fixed = frozen_at(plain.double(), x.double())
    fixed.depth.train()
    torch.manual_seed(1)
    assert torch.allclose(noisy.double(), fixed(x.double() + 0.1), atol=1e-5)


@pytest.mark.parametrize("estimator", ["exact", "projection"])
def test_models_that_work_in_place(estimator):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x):
            return self.linear(torch.relu(x.sub_(0.5)))

    net, x = InPlace(), torch.rand(5, 4)
    before = x.clone()
    assert JacobianPenalty(estimator=estimator)(net, x) > 0
    SensitivityPenalty()(net, x)
    assert torch.equal(x, before)


def test_separate_passes_measure_what_stacked_ones_do():
    """With the statistics of the clean pass in BatchNorm, also for gradients with respect to the inputs."""
    values = []
    for stacked in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double().train()
        objective = Objective([SensitivityPenalty(), JacobianPenalty(estimator="projection")])
        x, y = torch.linspace(0, 1, 240).sin().view(40, 6).double(), torch.arange(40) % 3
        objective.prepare(model, x)
        objective.plan = replace(objective.plan, stacked=stacked)
        terms, _ = objective(model, x, y, Probes(0, x.device).at(0))
        terms["loss"].backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        values.append([*(terms[name].detach() for name in sorted(terms)), *gradients])
    for one, other in zip(*values, strict=True):
        assert torch.allclose(one, other, atol=1e-10)
