"""Presets: training on images of any range is training on images in [0, 1]."""

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegTrainer, TrainingConfig, describe, presets
from art_sensreg.benchmark.config.settings import RECIPES
from art_sensreg.training.config import CHEAP_FRACTION
from tests.conftest import weights_of


def trained(x, y, make_penalties, clip_values, preprocessing):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        clip_values=clip_values,
        preprocessing=preprocessing,
        device_type="cpu",
    )
    trainer = SensRegTrainer(classifier, make_penalties(clip_values), TrainingConfig(seed=0))
    trainer.fit(x, y, nb_epochs=2, verbose=False)
    return weights_of(classifier), trainer.history


MAKERS = {
    "sr_jr": lambda clip_values: presets.sr_jr("mnist", clip_values),
    "adversarial": lambda clip_values: presets.sr_jr("digits", clip_values, adversarial=True),
    "sr": lambda clip_values: presets.sr("cifar10", clip_values),
    "jr": lambda clip_values: presets.jr("digits", clip_values),
    "default": lambda clip_values: None,
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("width", [256.0, 255.0])
def test_training_on_scaled_images_is_training_on_unit_images(digits, name, width):
    x, y = digits.x_train[:200], digits.y_train[:200]
    wanted, history = trained(x, y, MAKERS[name], (0.0, 1.0), (0.0, 1.0))
    weights, scaled = trained(x * np.float32(width), y, MAKERS[name], (0.0, width), (0.0, width))
    same = torch.equal if width == 256 else lambda a, b: torch.allclose(a, b, atol=1e-5)  # powers of two are exact
    assert all(same(a, b) for a, b in zip(weights, wanted, strict=True))
    assert scaled[-1]["loss"] == pytest.approx(history[-1]["loss"], rel=0 if width == 256 else 1e-5)


def test_features_of_several_ranges_are_scaled_each_by_its_own(digits):
    x, y = digits.x_train[:200], digits.y_train[:200]
    widths = np.where(np.arange(64) % 2, 4.0, 0.5).reshape(1, 8, 8).astype(np.float32)
    wanted, _ = trained(x, y, presets_of_mnist, (0.0, 1.0), (0.0, 1.0))
    weights, _ = trained(x * widths, y, presets_of_mnist, (np.zeros_like(widths), widths), (0.0 * widths, widths))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights, wanted, strict=True))


def presets_of_mnist(clip_values):
    return presets.sr_jr("mnist", clip_values)


def test_the_settings_are_the_validated_ones():
    assert presets.sr_jr("digits") == [SensitivityPenalty(weight=0.3), JacobianPenalty()]
    assert presets.sr_jr("mnist") == presets.sr_jr() == [SensitivityPenalty(), JacobianPenalty()]
    assert presets.sr_jr("cifar10", clip_values=None) == [SensitivityPenalty(sigma=0.1), JacobianPenalty()]
    assert presets.sr_jr(clip_values=(-1, 1)) == [
        SensitivityPenalty(weight=4.0, sigma=0.6),
        JacobianPenalty(weight=0.4),
    ]
    assert presets.jr("digits") == [JacobianPenalty(weight=0.1, estimator="projection")]
    common = {"sigma": 0.3, "jr_weight": 0.1}
    for name, settings in {
        "digits": {"noise": "gaussian", "sr_weight": 0.3, "penalty_fraction": 1.0},
        "mnist": {"noise": "rademacher", "sr_weight": 1.0, "penalty_fraction": 0.5},
    }.items():
        assert RECIPES[name].penalties["sr+jr"] == {**common, **settings}
    assert TrainingConfig.cheap().penalty_fraction == CHEAP_FRACTION
    assert TrainingConfig.cheap(penalty_fraction=0.5, seed=1) == TrainingConfig(penalty_fraction=0.5, seed=1)


@pytest.mark.parametrize(("clip_values", "width"), [((0, 255), 255.0), ((-1, 1), 2.0), (None, 1.0)])
def test_a_trainer_alone_is_scaled_to_the_classifier(make_classifier, digits, clip_values, width):
    classifier = make_classifier(kind=PyTorchClassifier, clip_values=clip_values)
    wanted = (
        SensitivityPenalty(weight=width**2, sigma=0.3 * width),
        JacobianPenalty(weight=0.1 * width**2),
    )
    assert SensRegTrainer(classifier).penalties == wanted
    described = describe(classifier, digits.x_test[:20])
    assert [penalty.weight for penalty in described.penalties] == [penalty.weight for penalty in wanted]


def test_a_range_of_flat_arrays_fits_the_images(make_classifier):
    classifier = make_classifier(kind=PyTorchClassifier, clip_values=(np.zeros(64), np.linspace(1, 2, 64)))
    assert SensRegTrainer(classifier).penalties[0].sigma.shape == (1, 8, 8)
    classifier = make_classifier(kind=PyTorchClassifier, clip_values=(np.zeros(64), np.ones(64)))
    assert SensRegTrainer(classifier).penalties == (SensitivityPenalty(), JacobianPenalty())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: presets.sr_jr("mnits"), "`dataset` is 'mnits'; expected one of digits, mnist, cifar10. Did you mean"),
        (lambda: presets.sr("mnist", (1, 0)), "`clip_values` is"),
        (lambda: presets.jr("mnist", (np.zeros(2), np.arange(1, 3))), "`clip_values` has ranges of different widths"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
