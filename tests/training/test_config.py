"""The settings: what is refused, and numbers of other libraries."""

import numpy as np
import pytest
import torch

from art_sensreg import TrainingConfig
from art_sensreg.training import Callback
from tests.conftest import same_weights, weights_of
from tests.training.helpers import PENALTIES


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("penalty_fraction", 0, "finite number above 0"),
        ("penalty_fraction", 1.5, "at most 1"),
        ("precision", "float8", "one of float32, bfloat16, float16"),
        ("ema", 1.0, "below 1"),
        ("ema", -0.1, "above 0"),
        ("keep", 0, "at least 1"),
        ("checkpoint_every", 0, "at least 1"),
        ("on_nonfinite", "ignore", "one of stop, skip"),
        ("max_skipped", -1, "at least 0"),
        ("monitor", "val_f1", "one of val_robust_accuracy"),
        ("patience", 0, "at least 1"),
        ("device", "cuda:99", "a torch device of this machine"),
        ("device", "gpu", "a torch device of this machine"),
        ("device", "meta", "a device that holds data"),
    ],
)
def test_values_out_of_range(setting, value, message):
    with pytest.raises(ValueError, match=rf"`{setting}` is .*{message}"):
        TrainingConfig(**{setting: value})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("callbacks", [3]),
        ("callbacks", Callback),
        ("callbacks", [Callback]),
        ("compile", 1),
        ("restore_best", "yes"),
        ("validation_attack", 0.1),
        ("patience", 1.5),
    ],
)
def test_values_of_a_wrong_type(setting, value):
    with pytest.raises(TypeError, match=rf"`{setting}`"):
        TrainingConfig(**{setting: value})


def test_a_config_goes_for_the_classifiers_own_fit_too(make_classifier, digits):
    x, y = digits.x_train[:100], digits.y_train[:100]
    classifier, other = make_classifier(penalties=PENALTIES), make_classifier(penalties=PENALTIES)
    classifier.fit(x, y, config=TrainingConfig(seed=3, batch_size=20, nb_epochs=2))
    other.fit(x, y, batch_size=20, nb_epochs=2, seed=3)
    assert same_weights(weights_of(classifier), weights_of(other))
    with pytest.raises(TypeError, match=r"`config` is 3; expected a TrainingConfig"):
        classifier.fit(x, y, config=3)


def test_numbers_of_numpy_are_numbers():
    config = TrainingConfig(seed=np.int64(3), batch_size=np.int32(8), ema=np.float64(0.5), device=torch.device("cpu"))
    assert eval(repr(config)) == config == TrainingConfig(seed=3, batch_size=8, ema=0.5, device="cpu")


def test_a_warm_up_of_no_average_is_refused():
    with pytest.raises(ValueError, match="`ema_warmup` is True and `ema` is None"):
        TrainingConfig(ema_warmup=True)
