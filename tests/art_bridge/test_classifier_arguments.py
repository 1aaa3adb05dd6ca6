"""Arguments that a classifier refuses, with one clear error that changes nothing."""

import numpy as np
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing
from torch import nn

from art_sensreg import SensRegClassifier
from tests.conftest import same_weights, weights_of

SHAPE = (1, 4, 4)


X = np.random.default_rng(0).random((6, *SHAPE), dtype=np.float32)


Y = np.arange(6) % 3


ROWS = np.eye(3, dtype=np.float32)[Y]


def make(dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    kwargs.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=0.1))
    kwargs.setdefault("clip_values", (0.0, 1.0))
    kwargs = {"penalties": [], **kwargs}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu", **kwargs)


MASKED = np.ma.array(X, mask=X > 0.5)


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (MASKED, ValueError, "`x` has masked values"),
        (X.astype(complex), TypeError, "`x` .*complex128; expected .*real|`x` has dtype complex128; expected floating"),
        (X.astype(str), TypeError, r"`x` .*<U\d+"),
        (None, TypeError, "`x` "),
        (3.0, TypeError, "`x` "),
        ([[1.0], [1.0, 2.0]], ValueError, "`x` .*rows of equal shape"),
        ("abc", TypeError, "`x` "),
        (X.astype("datetime64[s]"), TypeError, "`x` "),
    ],
)
def test_what_is_not_an_array_of_numbers_is_refused(x, kind, message):
    classifier = make()
    before = weights_of(classifier)
    for call in (
        classifier.predict,
        lambda x: classifier.loss_gradient(x, ROWS),
        classifier.class_gradient,
        lambda x: classifier.compute_loss(x, ROWS),
        lambda x: classifier.fit(x, Y, nb_epochs=1),
    ):
        with pytest.raises(kind, match=message):
            call(x)
    assert same_weights(before, weights_of(classifier))


@pytest.mark.parametrize("name", ["predict", "loss_gradient", "class_gradient", "compute_loss", "get_activations"])
@pytest.mark.parametrize("defence", [None, SpatialSmoothing(channels_first=True)], ids=["plain", "smoothed"])
def test_images_of_another_shape_are_refused(name, defence):
    classifier = make(preprocessing_defences=defence)
    rest = {"loss_gradient": [ROWS], "compute_loss": [ROWS], "get_activations": [1]}.get(name, [])
    with pytest.raises(ValueError, match=r"`x` has shape \(6, 1, 2, 4\); expected \(n, 1, 4, 4\)"):
        getattr(classifier, name)(X[:, :, :2], *rest)
    assert len(getattr(classifier, name)(X, *rest)) == len(X)


def test_masked_labels_are_refused():
    classifier = make()
    for call in (
        lambda: classifier.fit(X, np.ma.array(Y, mask=Y == 1), nb_epochs=1),
        lambda: classifier.loss_gradient(X, np.ma.array(ROWS, mask=ROWS == 1)),
    ):
        with pytest.raises(ValueError, match="`y` has masked values"):
            call()


def test_what_is_refused_changes_nothing():
    classifier = make()
    classifier.fit(X, Y, nb_epochs=1, seed=0)
    stale = torch.optim.Adam(classifier.model.parameters())
    classifier.model(torch.tensor(X)).sum().backward()
    stale.step()
    first = next(iter(classifier.model.parameters()))
    stale.state[first]["exp_avg"] = torch.zeros(2)
    former = dict(classifier.__dict__)
    for bad in (
        {"model": None},
        {"model": "x", "nb_classes": 7},
        {"clip_values": (np.nan, 1.0)},
        {"clip_values": ("0", "1"), "channels_first": False},
        {"optimizer": stale},
        {"nb_classes": 7, "preprocessing_defences": [3]},
        {"nb_classes": 7, "penalties": [3]},
        {"unheard_of": 1, "nb_classes": 7},
    ):
        with pytest.raises((TypeError, ValueError), match="`"):
            classifier.set_params(**bad)
        assert classifier.__dict__ == former
