"""Class indices from labels and predictions in every form; models that return something else are refused."""

import numpy as np
import pytest
import torch
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import PyTorchClassifier
from art.preprocessing.expectation_over_transformation import EoTGaussianNoisePyTorch
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks import ProjectedAscent, differentiable_model
from art_sensreg.attacks.base.predictions import labels_of, predicted_labels
from tests.attacks.base.linear import ATTACKS, EPS, SHAPE, X, Y, classifier_of


def test_labels_in_all_forms():
    classifier = classifier_of()
    expected = [0, 3, 1]
    for y in (expected, np.array(expected, dtype=np.float32), np.eye(4)[expected], np.array(expected)[:, None]):
        labels = labels_of(classifier, y, 3)
        assert labels.dtype == np.int64
        assert labels.tolist() == expected
    for y in ([0, 1], [0, 1, 4], [0, 1, -1], [0, 1, 1.7], np.eye(3), [["a", "b", "c"]], [[[0, 1, 2]]]):
        with pytest.raises((ValueError, TypeError), match=r"`y` has .*; expected"):
            labels_of(classifier, y, 3)
    with pytest.raises(TypeError, match="`classifier` is CrossEntropyLoss"):
        differentiable_model(nn.CrossEntropyLoss())


class Twice(PreprocessorPyTorch):
    """Two copies of each image, as ART's EoT preprocessors make them."""

    def __init__(self):
        super().__init__(device_type="cpu", is_fitted=True, apply_fit=False, apply_predict=True)

    def forward(self, x, y=None):
        return x.repeat_interleave(2, dim=0), y


def test_several_copies_of_an_image_are_averaged_or_refused():
    classifier = classifier_of(preprocessing_defences=[Twice()])
    with pytest.raises(ValueError, match="returns 4 outputs for 2 images; expected one for each image"):
        differentiable_model(classifier)(torch.from_numpy(X[:2]))
    for attack in ("ascent", "sink", "official"):
        with pytest.raises(ValueError, match=r"24 (images of|outputs for) 12"):
            ATTACKS[attack](classifier, eps=EPS).generate(X)


@pytest.mark.parametrize("kind", [SensRegClassifier, PyTorchClassifier])
@pytest.mark.parametrize("ends", ["logits", "probability"])
def test_copies_of_arts_eot_are_averaged(ends, kind):
    """Noise without a spread: the mean over the copies is the model itself."""
    noise = EoTGaussianNoisePyTorch(nb_samples=3, std=(0.0, 0.0), clip_values=(0.0, 1.0), apply_predict=True)
    if ends == "logits":
        usual, noisy = (classifier_of(kind, preprocessing_defences=parts) for parts in ([], [noise]))
    else:
        model = nn.Sequential(classifier_of().model, nn.Linear(4, 1), nn.Sigmoid())
        settings = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
        usual, noisy = (
            kind(model, nn.BCELoss(), SHAPE, 2, preprocessing_defences=parts, **settings) for parts in ([], [noise])
        )
    images = torch.from_numpy(X)
    assert torch.allclose(differentiable_model(noisy)(images), differentiable_model(usual)(images), atol=1e-5)
    assert np.array_equal(predicted_labels(noisy, X), predicted_labels(usual, X))
    made, expected = (ProjectedAscent(one, eps=EPS, max_iter=10).generate(X) for one in (noisy, usual))
    assert np.array_equal(predicted_labels(noisy, made), predicted_labels(usual, expected))


class Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(12, 4)

    def forward(self, x):
        z = self.linear(x.flatten(1))
        others = {"tuple": (z, z), "dict": {"logits": z}, "volume": z[:, :, None], "three": z[:, :3], "none": None}
        return others[self.kind]


@pytest.mark.parametrize("kind", [SensRegClassifier, PyTorchClassifier])
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("tuple", r"`model` returns tuple; expected logits \(n, 4\)"),
        ("dict", "`model` returns dict; expected logits"),
        ("none", "`model` returns NoneType"),
        ("volume", r"`model` returns shape \(12, 4, 1\)|`classifier` predicts shape \(12, 4, 1\)"),
        ("three", r"`model` returns shape \(\d+, 3\); expected logits \(n, 4\)"),
    ],
)
def test_models_that_return_no_logits_of_all_classes_are_refused(returned, message, kind):
    classifier = kind(Returns(returned), nn.CrossEntropyLoss(), SHAPE, 4, clip_values=(0.0, 1.0), device_type="cpu")
    for attack in ("ascent", "sink", "official"):
        for y in (None, Y):
            with pytest.raises((TypeError, ValueError), match=message):
                ATTACKS[attack](classifier, eps=EPS).generate(X, y)
