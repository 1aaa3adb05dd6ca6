"""How models are converted for ART's certifiers: bounds, weights, and what cannot be converted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from art.estimators.certification.interval import PyTorchIBPClassifier

from art_sensreg.benchmark.defences import NotApplicable
from art_sensreg.benchmark.defences.from_art.certifiers import convert, copy_back, layers_of, sizes_of
from art_sensreg.datasets import Dataset
from tests.benchmark.defences.from_art.training import small_spec


def test_convolved_intervals_have_the_unrolled_bounds(digits: Dataset) -> None:
    spec = small_spec(digits, model="cnn-small")
    model = spec.new_model()
    bounds, outputs = [], []
    for convolved in (False, True):
        certifier = convert(spec, PyTorchIBPClassifier, model, convolved)
        certifier.model.set_forward_mode("abstract")
        bounds.append(certifier.predict_intervals(digits.x_test[:10], bounds=0.1, limits=[0.0, 1.0]))
        certifier.model.set_forward_mode("concrete")
        outputs.append(certifier.predict(digits.x_test[:10]))
    np.testing.assert_allclose(bounds[0], bounds[1], atol=1e-5)
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
    np.testing.assert_allclose(outputs[1], spec.classifier(model).predict(digits.x_test[:10]), atol=1e-5)


def test_the_weights_of_a_converted_copy_come_back(digits: Dataset) -> None:
    spec = small_spec(digits, model="cnn-small")
    model = spec.new_model()
    before = [weight.detach().clone() for weight in model.parameters()]
    certifier = convert(spec, PyTorchIBPClassifier, model)
    with torch.no_grad():
        for weight in certifier.model.parameters():
            weight.add_(1.0)
    assert all(torch.equal(weight, former) for weight, former in zip(model.parameters(), before, strict=True))
    copy_back(certifier, model)
    for weight, former in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(weight.detach(), former + 1.0)


def test_sizes_of_layers(digits: Dataset) -> None:
    spec = small_spec(digits)
    layers = layers_of(spec.new_model())
    assert [size for size in sizes_of(spec, layers) if size == 10] == [10]
    assert sizes_of(spec, layers)[0] == 64


@pytest.mark.parametrize("change", [{"activation": "gelu"}, {"norm_layer": "batch"}, {"model": "resnet-small"}])
def test_models_that_art_cannot_convert(digits: Dataset, change: dict[str, str]) -> None:
    with pytest.raises(NotApplicable, match="Conv2d, Linear and ReLU"):
        layers_of(small_spec(digits, **{"model": "cnn-small", **change}).new_model())
