"""Images that are a little outside the range: clipped within a tolerance that the caller sets."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from art_sensreg import SensitivityPenalty, SensRegClassifier, SensRegTrainer, TrainingConfig
from tests.conftest import same_weights, weights_of

X = np.random.default_rng(0).random((12, 4), dtype=np.float32) * 1.1 - 0.05


CLIPPED = X.clip(0, 1)


Y = np.arange(12) % 3


def classifier(clip_values=(0.0, 1.0)):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    return SensRegClassifier(
        net, nn.CrossEntropyLoss(), (4,), 3, optimizer=torch.optim.SGD(net.parameters(), 0.1),
        clip_values=clip_values, device_type="cpu",
    )  # fmt: skip


def trained(x, tolerance, validation=None, scale=1.0):
    target = classifier((0.0, scale))
    config = TrainingConfig(seed=0, batch_size=5, clip_tolerance=tolerance)
    trainer = SensRegTrainer(target, [SensitivityPenalty(sigma=0.1 * scale)], config)
    trainer.fit(x, Y, validation_data=None if validation is None else (validation, Y), nb_epochs=2, verbose=False)
    return weights_of(target), [record.get("val_loss") for record in trainer.history]


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_what_is_within_the_tolerance_is_clipped(scale):
    assert X.min() < -0.01
    assert X.max() > 1.01
    kept = X.copy()
    result = trained(scale * X, 0.06 * scale, validation=scale * X, scale=scale)
    expected = trained(scale * CLIPPED, 0.0, validation=scale * CLIPPED, scale=scale)
    assert same_weights(result[0], expected[0])
    assert result[1] == expected[1]
    assert np.array_equal(X, kept)


@pytest.mark.parametrize("where", ["training", "validation"])
def test_what_is_beyond_it_is_refused(where):
    message = r"x` has values from -0.0\d+ to 1.0\d+; expected \[0, 1\].* outside by up to 0.0\d+, .*`clip_tolerance`"
    for tolerance in (0.0, 0.01):
        with pytest.raises(ValueError, match=message):
            trained(*((X, tolerance) if where == "training" else (CLIPPED, tolerance, X)))
    with pytest.raises(ValueError, match=r"expected \[0, 1\], the classifier's `clip_values`\.$"):
        trained(X * 255, 0.1)  # another unit: no matter of a tolerance


def test_arrays_in_files_are_clipped_batch_by_batch(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    result = trained(mapped, 0.06, validation=mapped)
    expected = trained(CLIPPED, 0.0, validation=CLIPPED)
    assert same_weights(result[0], expected[0])
    assert result[1] == expected[1]
    assert np.array_equal(np.load(tmp_path / "x.npy"), X)


def test_loaders():
    weights = []
    for x, tolerance in ((X, 0.06), (CLIPPED, 0.0)):
        loader = DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(Y)), batch_size=5)
        target = classifier()
        config = TrainingConfig(seed=0, clip_tolerance=tolerance)
        SensRegTrainer(target, [], config).fit_generator(loader, nb_epochs=2, verbose=False, validation_data=loader)
        weights.append(weights_of(target))
    assert same_weights(*weights)


@pytest.mark.parametrize(
    ("value", "error"), [(-0.1, ValueError), (float("nan"), ValueError), ("0.1", TypeError), (None, TypeError)]
)
def test_wrong_tolerances(value, error):
    with pytest.raises(error, match="`clip_tolerance`"):
        TrainingConfig(clip_tolerance=value)
