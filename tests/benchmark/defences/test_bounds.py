"""Interval bounds against every corner of small boxes, against intervals written by hand, and against ART's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from art.estimators.certification.interval import PyTorchIBPClassifier
from torch import nn

from art_sensreg.benchmark.defences.bounds import (
    Intervals,
    UnboundedError,
    interval_bounds,
    layers_in_sequence,
    propagate,
)
from art_sensreg.benchmark.defences.from_art.certifiers import convert, images_for
from art_sensreg.models import build_model
from tests.benchmark.defences.from_art.training import small_spec

SMALL = {
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.LeakyReLU(), nn.Flatten(), nn.Linear(6, 3)),
    "pooling": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 2, padding=1), nn.MaxPool2d(2), nn.AvgPool2d((1, 2)), nn.Flatten(), nn.Linear(2, 3)
    ),
    "BatchNorm": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 2, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(6, 4),
        nn.BatchNorm1d(4, affine=False), nn.ReLU(), nn.Linear(4, 3)
    ),
    "smooth": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(6, 4, bias=False), nn.Softplus(), nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
        nn.Linear(4, 3, bias=False)
    ),
}  # fmt: skip


def corners(x: torch.Tensor, eps: float) -> torch.Tensor:
    """All corners of the boxes around images within [0, 1], `(corners, n, ...)`."""
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    choices = itertools.product((False, True), repeat=x[0].numel())
    return torch.stack([torch.where(torch.tensor(choice).view(x.shape[1:]), high, low) for choice in choices])


@pytest.mark.parametrize("name", SMALL)
def test_no_corner_and_no_point_of_a_box_is_outside_of_its_bounds(name: str) -> None:
    torch.manual_seed(0)
    model, x, y = SMALL[name]().double(), torch.rand(4, 1, 2, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    model(torch.rand(50, 1, 2, 3, dtype=torch.float64))  # running statistics
    model.eval()
    bounds = interval_bounds(model, x, y, 0.2)
    low, high = (x - 0.2).clamp(0, 1), (x + 0.2).clamp(0, 1)
    inside = low + (high - low) * torch.rand(200, *x.shape, dtype=torch.float64)
    for images in (*corners(x, 0.2), *inside):
        logits = model(images)
        margins = logits.gather(1, y[:, None]) - logits
        assert (margins >= bounds.margins - 1e-12).all()
    assert (bounds.margins.gather(1, y[:, None]) == 0).all()
    at_the_image = model(x).gather(1, y[:, None]) - model(x)
    assert torch.allclose(interval_bounds(model, x, y, 0.0).margins, at_the_image)


def test_the_bounds_of_one_layer_are_reached_in_a_corner() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double()
    x, y = torch.rand(4, 1, 2, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    logits = torch.stack([model(images) for images in corners(x, 0.2)])
    margins = (logits.gather(2, y[None, :, None].expand(len(logits), -1, 1)) - logits).amin(0)
    assert torch.allclose(interval_bounds(model, x, y, 0.2).margins, margins)
    # A difference of two bounds takes both from corners of their own.
    ends = propagate(model[1], Intervals.between((x - 0.2).clamp(0, 1).flatten(1), (x + 0.2).clamp(0, 1).flatten(1)))
    apart = ends.low.gather(1, y[:, None]) - ends.high
    assert (apart.scatter(1, y[:, None], 0) < margins + 1e-12).all()
    assert (apart < margins - 1e-3).any()


def test_layers_are_what_intervals_by_hand_give() -> None:
    torch.manual_seed(0)
    dense = nn.Linear(4, 3).double()
    low = torch.randn(5, 4, dtype=torch.float64)
    high = low + torch.rand(5, 4, dtype=torch.float64)
    up, down = dense.weight.clamp(min=0), dense.weight.clamp(max=0)
    found = propagate(dense, Intervals.between(low, high))
    assert torch.allclose(found.low, low @ up.T + high @ down.T + dense.bias)
    assert torch.allclose(found.high, high @ up.T + low @ down.T + dense.bias)
    relu = propagate(nn.ReLU(), found)
    assert torch.allclose(relu.low, found.low.clamp(min=0))
    assert torch.allclose(relu.high, found.high.clamp(min=0))
    convolution = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2).double()
    images = Intervals.between(torch.zeros(1, 2, 4, 4).double(), torch.rand(1, 2, 4, 4).double())
    # As a dense layer: each column is what one pixel alone gives.
    basis = torch.eye(32, dtype=torch.float64).view(32, 2, 4, 4)
    matrix = (convolution(basis) - convolution(torch.zeros_like(basis))).flatten(1)
    radius = images.radius.flatten(1) @ matrix.abs()
    assert torch.allclose(propagate(convolution, images).radius.flatten(1), radius)


@pytest.mark.parametrize("model", ["mlp", "cnn-small"])
def test_they_are_those_of_art(digits: Any, model: str) -> None:
    spec = small_spec(digits, model=model)
    network, x = spec.new_model(), digits.x_test[:10]
    certifier = convert(spec, PyTorchIBPClassifier, network)
    certifier.model.set_forward_mode("abstract")
    arts = certifier.predict_intervals(images_for(certifier, x), bounds=0.05, limits=[0.0, 1.0])
    images = torch.from_numpy(x)
    found = Intervals.between((images - 0.05).clamp(0, 1), (images + 0.05).clamp(0, 1))
    with torch.no_grad():
        for layer in layers_in_sequence(network):
            found = propagate(layer, found)
    np.testing.assert_allclose(np.stack([found.low, found.high], axis=1), arts, atol=1e-5)


def test_what_has_no_bounds_is_refused() -> None:
    shape = (1, 8, 8)
    for model, name in (
        (build_model("resnet-small", shape, 10), "PreActBlock"),
        (build_model("mlp", shape, 10, activation="gelu"), "GELU"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(2, 2)), "circ"),
        (nn.Sequential(nn.Linear(3, 2), nn.ReLU()), "ends in a dense layer"),
    ):
        with pytest.raises(UnboundedError, match=name):
            layers_in_sequence(model)


def test_in_training_the_statistics_are_those_of_the_clean_images() -> None:
    torch.manual_seed(0)
    model, x, y = SMALL["BatchNorm"]().double(), torch.rand(8, 1, 2, 3, dtype=torch.float64), torch.arange(8) % 3
    before = [buffer.clone() for buffer in model.buffers()]
    found = interval_bounds(model, x, y, 0.0).margins
    assert all(torch.equal(*pair) for pair in zip(before, model.buffers(), strict=True))  # it moves none
    logits = model(x)
    assert torch.allclose(found, logits.gather(1, y[:, None]) - logits)
    # With a box, as the network whose statistics are fixed to those of the clean batch.
    frozen = SMALL["BatchNorm"]().double()
    frozen.load_state_dict(model.state_dict())
    for layer in (frozen[1], frozen[5]):
        layer.momentum = 1.0
    frozen(x)
    n = {1: 8 * 2, 5: 8}  # torch keeps the unbiased variance, and divides by the biased one
    for place, count in n.items():
        frozen[place].running_var.mul_((count - 1) / count)
    expected = interval_bounds(frozen.eval(), x, y, 0.1).margins
    assert torch.allclose(interval_bounds(model, x, y, 0.1).margins, expected)
    with pytest.raises(UnboundedError, match="whose statistics are the batch's"):
        interval_bounds(
            nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)).eval(), x[:, 0, 0], y, 0.1
        )


def test_the_first_images_alone() -> None:
    torch.manual_seed(0)
    model, x, y = SMALL["dense"](), torch.rand(4, 1, 2, 3), torch.tensor([0, 1, 2, 1])
    first, alone = interval_bounds(model, x, y, 0.1).first(3), interval_bounds(model, x[:3], y[:3], 0.1)
    assert torch.allclose(first.margins, alone.margins)
    assert torch.allclose(first.preactivations[0].radius, alone.preactivations[0].radius)
    assert torch.allclose(first.images.centre, alone.images.centre)
