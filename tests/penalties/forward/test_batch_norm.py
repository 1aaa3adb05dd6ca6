"""BatchNorm with statistics of the clean rows, against torch's own operations in double precision."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from art_sensreg import JacobianPenalty, SensitivityPenalty
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.batch_norm import (
    CleanStatistics,
    StatisticsGradient,
    move_statistics,
    normalise,
    normalise_again,
    normalise_first,
    statistics,
    uses_batch_statistics,
)


def plain(x, weight, bias, rows, eps=1e-3):
    variance, mean = torch.var_mean(x[:rows], dim=[0, *range(2, x.ndim)], correction=0)
    shape = [1, -1] + [1] * (x.ndim - 2)
    scaled = (x - mean.view(shape)) / (variance.view(shape) + eps).sqrt()
    return scaled * weight.view(shape) + bias.view(shape)


@pytest.fixture(params=[(6, 3), (6, 3, 4), (6, 3, 4, 5)], ids=str)
def inputs(request):
    shape = request.param
    tensors = torch.randn(shape).double() * 2 + 1, torch.rand(3).double() + 0.5, torch.randn(3).double()
    return [tensor.requires_grad_() for tensor in tensors]


class TensorsGiven(TorchDispatchMode):
    """Whether torch's gradient of a BatchNorm was given a tensor for everything that it may look at."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.native_batch_norm_backward.default:
            self.given = all(argument is not None for argument in args)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("again", [False, True])
def test_the_kernel_of_the_gradient_is_given_tensors(again):
    """One of those for CUDA, of images with their channels last, fails where there is none."""
    x, affine = torch.randn(6, 3, 4, 4, requires_grad=True), (torch.ones(3), torch.zeros(3))
    with TensorsGiven() as seen:
        if again:
            output = normalise_again(x, *affine, (torch.zeros(3), torch.ones(3)), 1e-3)
        else:
            output = normalise(x, *affine, CleanStatistics(rows=4, eps=1e-3))
        output.sum().backward()
    assert seen.given


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_on_a_gpu(layout):
    tensors = torch.randn(6, 8, 4, 4).to(memory_format=layout), torch.rand(8) + 0.5, torch.randn(8)
    found = {}
    for device in ("cpu", "cuda"):
        inputs = [tensor.to(device).requires_grad_() for tensor in tensors]
        output = normalise(*inputs, CleanStatistics(rows=4, eps=1e-3))
        found[device] = torch.autograd.grad(output.square().cumsum(0).sum(), inputs)
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.allclose(one, other.cpu(), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_two_passes_on_a_gpu(layout):
    images = [torch.randn(6, 8, 4, 4).to(memory_format=layout) for _ in range(2)]
    tensors = *images, torch.rand(8) + 0.5, torch.randn(8)
    found = {}
    for device in ("cpu", "cuda"):
        inputs = [tensor.to(device).requires_grad_() for tensor in tensors]
        loss = torch.cat(normalised(*inputs)).square().cumsum(0).sum()
        found[device] = torch.autograd.grad(loss, inputs)
    for one, other in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.allclose(one, other.cpu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [4, 6])
def test_outputs_and_gradients(inputs, rows):
    output = normalise(*inputs, CleanStatistics(rows=rows, eps=1e-3))
    assert torch.allclose(output, plain(*inputs, rows), atol=1e-12)
    seed = torch.randn_like(output)
    for a, b in zip(
        torch.autograd.grad(output, inputs, seed), torch.autograd.grad(plain(*inputs, rows), inputs, seed), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-10)


def test_it_is_torchs_batch_norm_when_all_examples_are_clean(inputs):
    output = normalise(*inputs, CleanStatistics(rows=6, eps=1e-5))
    own = F.batch_norm(inputs[0], None, None, inputs[1], inputs[2], True, 0.1, 1e-5)
    assert torch.allclose(output, own, atol=1e-12)


def test_second_derivatives(inputs):
    clean = CleanStatistics(rows=4, eps=1e-3)
    assert torch.autograd.gradgradcheck(lambda x, w, b: normalise(x, w, b, clean), inputs, atol=1e-4)


@pytest.fixture
def two_passes(inputs):
    """Inputs of a pass and of another one that repeats its statistics, with weight and bias."""
    return [inputs[0], (torch.randn_like(inputs[0][:4]) + 2).requires_grad_(), *inputs[1:]]


def normalised(first, second, weight, bias):
    output, *found = normalise_first(first, weight, bias, CleanStatistics(rows=len(first), eps=1e-3))
    return output, normalise_again(second, weight, bias, tuple(found), 1e-3)


def test_a_pass_after_the_first_has_its_statistics(two_passes):
    first, second, *affine = two_passes
    expected = plain(torch.cat([first, second]), *affine, len(first)).split([len(first), len(second)])
    found = normalised(*two_passes)
    seeds = [torch.randn_like(output) for output in found]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    for outputs in ((0,), (1,), (0, 1)):  # each may be wanted without the other
        chosen = [seeds[i] for i in outputs]
        got, wanted = (
            torch.autograd.grad([each[i] for i in outputs], two_passes, chosen, True, materialize_grads=True)
            for each in (found, expected)
        )
        for one, other in zip(got, wanted, strict=True):
            assert torch.allclose(one, other, atol=1e-10)


def test_second_derivatives_of_two_passes(two_passes):
    assert torch.autograd.gradcheck(normalised, two_passes, atol=1e-5)
    assert torch.autograd.gradgradcheck(normalised, two_passes, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_two_passes_in_half_precision(dtype):
    x, other = ((torch.randn(8, 3, 4, 4) * 3 + 5).to(dtype).requires_grad_() for _ in range(2))
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    outputs = normalised(x, other, weight, bias)
    exact = plain(torch.cat([x, other]).double(), weight.double(), bias.double(), 8, 1e-3)
    assert all(output.dtype == dtype for output in outputs)
    assert torch.allclose(torch.cat(outputs).double(), exact, atol=0.05)
    torch.cat(outputs).float().pow(2).sum().backward()
    assert (x.grad.dtype, other.grad.dtype, weight.grad.dtype) == (dtype, dtype, torch.float32)


def test_at_fixed_statistics_examples_do_not_see_each_other(inputs):
    x, weight, bias = inputs
    statistics_gradient = StatisticsGradient()
    output = normalise(x, weight, bias, CleanStatistics(rows=6, eps=1e-3, gradient=statistics_gradient))
    variance = torch.var_mean(x.detach(), [0, *range(2, x.ndim)], correction=0)[0]
    with statistics_gradient.stopped():
        (gradient,) = torch.autograd.grad(output[2].sum(), x, create_graph=True)
    assert not gradient[[0, 1, 3, 4, 5]].any()
    shape = [-1] + [1] * (x.ndim - 2)
    assert torch.allclose(gradient[2], (weight / (variance + 1e-3).sqrt()).view(shape).expand_as(x[2]))
    # The weights still learn through the statistics, on which the slope depends.
    expected = (weight / (torch.var_mean(x, [0, *range(2, x.ndim)], correction=0)[0] + 1e-3).sqrt()).view(shape)
    (second,) = torch.autograd.grad(gradient.pow(2).sum(), x)
    (wanted,) = torch.autograd.grad(expected.expand_as(x[2]).pow(2).sum(), x)
    assert torch.allclose(second, wanted, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_their_type(dtype):
    x = (torch.randn(8, 3, 4, 4) * 3 + 5).to(dtype).requires_grad_()
    weight, bias = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    output = normalise(x, weight, bias, CleanStatistics(rows=4, eps=1e-5))
    assert output.dtype == dtype
    assert move_statistics(x[:4], None, 0.0)[0].dtype == torch.float32
    exact = plain(x.double(), weight.double(), bias.double(), 4, 1e-5)
    assert torch.allclose(output.double(), exact, atol=0.05)
    output.float().pow(2).sum().backward()
    assert x.grad.dtype == dtype
    assert weight.grad.dtype == torch.float32


def test_statistics_of_numbers_far_from_zero():
    x = torch.randn(64, 2, 10, 10) + 1000
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            mean, variance = statistics(x)
        wide = torch.var_mean(x.double(), dim=[0, 2, 3], correction=0)
        assert torch.allclose(variance.double(), wide[0], rtol=1e-3)
        assert torch.allclose(mean.double(), wide[1], rtol=1e-6)


class Kernels(TorchDispatchMode):
    """Counts the operations that would launch a kernel on an accelerator: all but views and allocations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = any(output.alias_info and not output.alias_info.is_write for output in func._schema.returns)
        self.count += not views and "empty" not in func._schema.name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dims", [1, 2])
def test_a_layer_needs_few_kernels_under_the_penalties(dims):
    layers = 3
    counts = []
    for norm in (nn.Identity, {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dims]):
        parts = [(nn.Linear(4, 4) if dims == 1 else nn.Conv2d(4, 4, 1), norm(4), nn.ReLU()) for _ in range(layers)]
        net = nn.Sequential(*(layer for part in parts for layer in part), nn.Flatten(), nn.Linear(4, 3)).train()
        x = torch.rand(6, 4) if dims == 1 else torch.rand(6, 4, 1, 1)
        objective = Objective([SensitivityPenalty(), JacobianPenalty()])
        objective.prepare(net, x)
        with Kernels() as kernels:
            terms, _ = objective(net, x, torch.zeros(6, dtype=torch.long))
            terms["loss"].backward()
        counts.append(kernels.count)
    assert (counts[1] - counts[0]) / layers <= 10  # the optimizer has two more, one for each parameter


def test_running_statistics_move_as_torchs_do():
    ours, torchs = ([torch.zeros(3), torch.ones(3)] for _ in range(2))
    x = torch.randn(6, 3, 4)
    normalise(x, None, None, CleanStatistics(rows=4, eps=1e-5, running=tuple(ours), momentum=0.3))
    F.batch_norm(x[:4], *torchs, training=True, momentum=0.3)
    for one, other in zip(ours, torchs, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    half = [torch.zeros(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)]
    normalise(x, None, None, CleanStatistics(rows=4, eps=1e-5, running=tuple(half), momentum=0.3))
    assert torch.allclose(half[1].float(), ours[1], atol=0.02)


def test_which_layers_use_the_statistics_of_the_batch():
    assert uses_batch_statistics([nn.BatchNorm1d(2).eval(), nn.BatchNorm1d(2)])
    assert uses_batch_statistics([nn.BatchNorm1d(2, track_running_stats=False).eval()])
    assert not uses_batch_statistics([nn.BatchNorm1d(2).eval()])


def test_a_backward_pass_in_another_thread_sees_that_the_statistics_are_fixed():
    """As on a GPU, where autograd has threads of its own; another pass at the same time is not concerned."""
    passes = []
    for _ in range(2):
        x, gradient = torch.rand(4, 2).requires_grad_(), StatisticsGradient()
        passes.append((x, normalise(x, None, None, CleanStatistics(rows=4, eps=1e-3, gradient=gradient)), gradient))
    leaks = []

    def differentiate():
        for x, output, _ in passes:
            (slope,) = torch.autograd.grad(output[0].sum(), x, create_graph=True)
            leaks.append(bool(slope[1:].any()))

    with passes[0][2].stopped():
        thread = threading.Thread(target=differentiate)
        thread.start()
        thread.join()
    assert leaks == [False, True]
