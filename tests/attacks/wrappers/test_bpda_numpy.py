"""The forward pass of BPDA is the preprocessing with numpy's semantics, also where those of torch differ."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks import BPDA, EOT, ProjectedAscent

X = np.array([[0.0, 1.0, 2.0, 5.0], [3.0, 3.0, 1.0, 4.0]], dtype=np.float32)
# numpy divides by n: var (1 0 1 9) * 7/4 ..., worked out by hand below.
STD = np.sqrt(np.array([[3.5], [1.1875]]))
VAR = np.array([[3.5], [1.1875]])


def scaled(x):
    return x / x.std(axis=1, keepdims=True)


def scaled_by_variance(x):
    return x / x.var(axis=1, keepdims=True)


def of_all(x):
    return x - x.std()


def both(x):
    """Written for tensors and arrays alike, by a library function of each."""
    return x / (np.std(x, axis=1, keepdims=True) if isinstance(x, np.ndarray) else x.std(1, keepdim=True))


def centred(x):
    return x - np.median(x, axis=1, keepdims=True)


def repeated(x):
    return x.repeat(2)[: x.size if isinstance(x, np.ndarray) else x.numel()].reshape(x.shape)


def halves(x):
    return (x * 2).round() / 2 + x.std(axis=0)


def ranks(x):
    return np.sort(x, axis=1)


CASES = [
    (scaled, X / STD),
    (scaled_by_variance, X / VAR),
    (of_all, X - np.sqrt(np.square(X - 2.375).mean())),
    (both, X / STD),
    (centred, X - np.array([[1.5], [3.0]])),
    (repeated, np.array([[0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 5.0, 5.0]])),
    (halves, X + np.array([1.5, 1.0, 0.5, 0.5])),
    (ranks, np.array([[0.0, 1.0, 2.0, 5.0], [1.0, 3.0, 3.0, 4.0]])),
    (np.sqrt, np.sqrt(X)),
    (lambda x: np.round(x * 0.5), np.array([[0.0, 0.0, 1.0, 2.0], [2.0, 2.0, 0.0, 2.0]])),
    (lambda x: np.quantile(x, 0.5, axis=1, keepdims=True) + 0 * x, np.array([[1.5], [3.0]]) + 0 * X),
    (lambda x: x.clip(1, 3), np.array([[1.0, 1.0, 2.0, 3.0], [3.0, 3.0, 1.0, 3.0]])),
]


@pytest.mark.parametrize(("function", "right"), CASES)
def test_forward_is_numpys_and_backward_straight_through(function, right):
    model, x = BPDA(nn.Identity(), function), torch.from_numpy(X).requires_grad_(True)
    for _ in range(2):
        output = model(x)
        assert output.dtype == torch.float32
        assert np.allclose(output.detach(), right, atol=1e-6)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    assert torch.equal(gradient, torch.ones_like(x))


def test_the_first_images_may_hide_the_difference():
    model = BPDA(nn.Identity(), lambda x: x + x.std(axis=1, keepdims=True))
    assert torch.equal(model(torch.ones(1, 4)), torch.ones(1, 4))
    assert np.allclose(model(torch.from_numpy(X)), X + STD, atol=1e-6)


def test_a_difference_that_only_some_shapes_have_is_found():
    """The median of an odd number of values is the same in both; of an even number it is not."""
    function = lambda x: x - (np.median(x) if isinstance(x, np.ndarray) else x.median())  # noqa: E731
    model = BPDA(nn.Identity(), function)
    assert torch.equal(model(torch.tensor([[1.0, 2.0, 4.0]])), torch.tensor([[-1.0, 0.0, 2.0]]))
    assert torch.equal(model(torch.tensor([[1.0, 2.0, 4.0, 5.0]])), torch.tensor([[-2.0, -1.0, 1.0, 2.0]]))


def test_a_difference_is_reported_once_and_arrays_are_given(caplog):
    x = torch.from_numpy(X)
    with caplog.at_level(logging.WARNING, logger="art_sensreg"):
        model = BPDA(nn.Identity(), scaled)
        for rows in (x, x[:1], x):
            model(rows)
    assert ["It is given arrays" in record.message for record in caplog.records] == [True]
    assert torch.allclose(BPDA(nn.Identity(), scaled, numpy=False)(x), x / x.std(1, keepdim=True))
    assert np.allclose(BPDA(nn.Identity(), scaled, numpy=True)(x), X / STD)
    caplog.clear()
    BPDA(nn.Identity(), lambda x: (x * 4).round() / 4)(x)
    BPDA(nn.Identity(), lambda x: torch.round(x * 4) / 4)(x)
    BPDA(nn.Identity(), scaled, numpy=False)(x)
    assert not caplog.records


def test_functions_with_identical_results_stay_on_tensors():
    seen = []

    def quantise(x):
        seen.append(type(x))
        return (x * 4).round() / 4

    model = BPDA(nn.Identity(), quantise)
    model(torch.from_numpy(X))
    seen.clear()
    model(torch.from_numpy(X))
    assert seen == [torch.Tensor]


def test_trying_out_a_random_function_draws_nothing():
    def noisy(x):
        return x + np.random.standard_normal(x.shape).astype(np.float32)

    model = BPDA(nn.Identity(), noisy)
    np.random.seed(3)
    first = model(torch.zeros(2, 3))
    np.random.seed(3)
    assert np.array_equal(first, np.random.standard_normal((2, 3)).astype(np.float32))


def test_an_attack_breaks_what_the_deployed_preprocessing_makes():
    """Judged by the images that numpy preprocesses, not by the approximation that torch would make of them."""
    linear = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -1.0, 0.5, 0.0], [-1.0, 1.0, 0.0, 0.5]]))
    x = np.random.default_rng(0).random((30, 4)).astype(np.float32)
    attacked = SensRegClassifier(
        BPDA(linear, scaled), nn.CrossEntropyLoss(), (4,), 2, clip_values=(0.0, 1.0), device_type="cpu"
    )
    deployed = lambda images: (scaled(images) @ linear.weight.detach().numpy().T).argmax(axis=1)  # noqa: E731
    y = deployed(x)
    made = ProjectedAscent(attacked, eps=0.15, max_iter=20).generate(x, y)
    robust = deployed(made) == y
    assert np.array_equal(attacked.predict(made).argmax(axis=1) == y, robust)
    assert 0 < robust.mean() < 1


def test_half_precision_reaches_numpy_as_float32():
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        output = BPDA(nn.Identity(), scaled)(torch.from_numpy(X).to(kind))
        assert output.dtype == kind
        assert np.allclose(output.float(), X / STD, rtol=0.01)


@pytest.mark.parametrize("cut", [lambda x: x.detach() * 2, lambda x: torch.as_tensor(x.detach().numpy() * 2)])
def test_a_surrogate_or_transform_that_cuts_the_gradient_is_refused(cut):
    x = torch.from_numpy(X).requires_grad_(True)
    with pytest.raises(ValueError, match="`surrogate` returns a tensor to which autograd finds no path"):
        BPDA(nn.Identity(), np.sqrt, surrogate=cut)(x)
    with pytest.raises(ValueError, match="`transform` returns a tensor to which autograd finds no path"):
        EOT(nn.Identity(), samples=2, transform=cut, noise="rows").eval()(x)
    with pytest.raises(TypeError, match="`transform` returns ndarray; expected a tensor"):
        EOT(nn.Identity(), samples=2, transform=lambda x: x.detach().numpy(), noise="rows").eval()(x)


def test_ties_are_sorted_as_numpy_sorts_them():
    """Torch sorts equal values in another order; the first images, and noise, have none."""
    first = torch.linspace(0, 1, 60).view(1, 60)
    later = torch.tensor(np.round(np.random.default_rng(0).random((1, 60)) * 4) / 4, dtype=torch.float32)
    bpda = BPDA(nn.Identity(), lambda x: x.argsort(-1))
    bpda(first)
    assert torch.equal(bpda(later), torch.from_numpy(later.numpy().argsort(-1)).float())


@pytest.mark.parametrize(
    "made",
    [lambda x: x[:, ::-1], lambda x: x.astype(">f4"), lambda x: x.astype(np.longdouble), lambda x: x.astype(np.uint16)],
)
def test_arrays_of_any_strides_and_type_come_back(made):
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert BPDA(nn.Identity(), made, numpy=True)(x).tolist() == made(x.numpy()).tolist()


@pytest.mark.parametrize("value", [None, "x", 1j, np.ma.masked_array([[1.0]], [[True]]), torch.tensor([[1j]])])
def test_what_is_no_array_of_numbers_is_refused(value):
    with pytest.raises((TypeError, ValueError), match=r"`preprocessing`.*expected"):
        BPDA(nn.Identity(), lambda x: value)(torch.ones(1, 1))


def test_a_function_of_arrays_is_refused_inside_vmap():
    """Where no array can be made it would be given tensors, whose `std` differs."""
    model = torch.func.vmap(BPDA(nn.Identity(), lambda x: x - x.std()))
    with pytest.raises(ValueError, match="`preprocessing` takes numpy arrays"):
        model(torch.rand(3, 4, 5))
    assert torch.func.vmap(BPDA(nn.Identity(), torch.round))(torch.rand(3, 4, 5)).shape == (3, 4, 5)
