"""Arrays as they come: any strides, byte order and type give the numbers of a plain float32 one, or one clear error."""

import copy

import numpy as np
import pytest
import torch
from art.defences.preprocessor import SpatialSmoothing
from torch import nn

from art_sensreg import JacobianPenalty, SensitivityPenalty, SensRegClassifier
from tests.conftest import same_weights, weights_of

SHAPE = (1, 4, 4)


X = np.random.default_rng(0).random((6, *SHAPE), dtype=np.float32)


Y = np.arange(6) % 3


ROWS = np.eye(3, dtype=np.float32)[Y]


FORMS = {
    "negative strides": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "negative strides within": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "big-endian float64": lambda a: a.astype(">f8"),
    "fortran order": np.asfortranarray,
    "every second of more": lambda a: np.repeat(a, 2, axis=0)[::2],
    "read-only": lambda a: (b := a.copy(), b.setflags(write=False))[0],
    "long double": lambda a: a.astype(np.longdouble),
    "a mask that hides nothing": lambda a: np.ma.array(a),
    "lists": lambda a: a.tolist(),
}


def make(dtype=torch.float32, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    kwargs.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=0.1))
    kwargs.setdefault("clip_values", (0.0, 1.0))
    kwargs = {"penalties": [], **kwargs}
    return SensRegClassifier(model, nn.CrossEntropyLoss(), SHAPE, 3, device_type="cpu", **kwargs)


@pytest.mark.parametrize("defence", [None, SpatialSmoothing(channels_first=True)], ids=["plain", "smoothed"])
@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_an_array_changes_nothing(form, defence):
    classifier = make(preprocessing_defences=defence, penalties=[SensitivityPenalty(), JacobianPenalty()])
    x, y, rows = FORMS[form](X), FORMS[form](Y.astype(np.float32)), FORMS[form](ROWS)
    assert np.allclose(classifier.predict(x), classifier.predict(X), atol=1e-6)
    assert np.allclose(classifier.loss_gradient(x, rows), classifier.loss_gradient(X, ROWS), atol=1e-7)
    assert np.allclose(classifier.class_gradient(x), classifier.class_gradient(X), atol=1e-6)
    assert np.allclose(classifier.compute_loss(x, rows), classifier.compute_loss(X, ROWS), atol=1e-6)
    assert np.allclose(classifier.get_activations(x, 1), classifier.get_activations(X, 1), atol=1e-6)
    twin = copy.deepcopy(classifier)
    classifier.fit(x, y, nb_epochs=2, seed=0)
    twin.fit(X, Y, nb_epochs=2, seed=0)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights_of(classifier), weights_of(twin), strict=True))


@pytest.mark.parametrize("defence", [None, SpatialSmoothing(channels_first=True)], ids=["plain", "smoothed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_in_bfloat16_and_float64_return_float32(dtype, defence):
    classifier, exact = make(dtype, preprocessing_defences=defence), make(preprocessing_defences=defence)
    tolerance = 0.03 if dtype is torch.bfloat16 else 1e-6
    for first, second in (
        (classifier.predict(X), exact.predict(X)),
        (classifier.loss_gradient(X, ROWS), exact.loss_gradient(X, ROWS)),
        (classifier.class_gradient(X), exact.class_gradient(X)),
        (classifier.class_gradient(X, label=1), exact.class_gradient(X, label=1)),
        (classifier.compute_loss(X, ROWS), exact.compute_loss(X, ROWS)),
        (classifier.get_activations(X, 1), exact.get_activations(X, 1)),
    ):
        assert first.shape == second.shape
        assert np.allclose(first, second, atol=tolerance)
    if dtype is torch.bfloat16:
        with pytest.raises(TypeError, match=r"`model` computes in torch.bfloat16; expected"):
            classifier.fit(X, Y, nb_epochs=1)


def test_a_default_type_of_float64_changes_nothing():
    def results():
        classifier = make(torch.float32, penalties=[SensitivityPenalty(), JacobianPenalty()], preprocessing=(0.1, 0.5))
        before = classifier.predict(X), classifier.loss_gradient(X, ROWS), classifier.class_gradient(X)
        classifier.fit(X, Y, nb_epochs=2, seed=0)
        return [*before, classifier.predict(X)]

    torch.manual_seed(0)
    weights = make().model.state_dict()
    expected = results()
    torch.set_default_dtype(torch.float64)
    try:
        classifier = make(torch.float32, preprocessing=(0.1, 0.5), penalties=[SensitivityPenalty(), JacobianPenalty()])
        classifier.model.load_state_dict(weights)
        found = [classifier.predict(X), classifier.loss_gradient(X, ROWS), classifier.class_gradient(X)]
        classifier.fit(X, Y, nb_epochs=2, seed=0)
        found.append(classifier.predict(X))
        assert all(parameter.dtype is torch.float32 for parameter in classifier.model.parameters())
    finally:
        torch.set_default_dtype(torch.float32)
    for first, second in zip(found[:3], expected[:3], strict=True):
        assert first.dtype == np.float32
        assert np.allclose(first, second, atol=1e-6)
    assert np.isfinite(found[3]).all()


def test_clip_values_may_be_flat_arrays():
    low, high = np.zeros(16), np.full(16, 1.0)
    flat = make(clip_values=(low, high), penalties=[SensitivityPenalty(clip=True)])
    shaped = make(clip_values=(low.reshape(SHAPE), high.reshape(SHAPE)), penalties=[SensitivityPenalty(clip=True)])
    for classifier in (flat, shaped):
        classifier.fit(X, Y, nb_epochs=1, seed=0)
    assert same_weights(weights_of(flat), weights_of(shaped))
    assert np.array_equal(flat.predict(X), shaped.predict(X))
    assert np.array_equal(flat.class_gradient(X), shaped.class_gradient(X))


@pytest.mark.parametrize("preprocessing", [None, SpatialSmoothing(channels_first=True)])
@pytest.mark.parametrize("gradients", [None, 1.0])
def test_gradients_with_respect_to_the_input_leave_those_of_the_weights_alone(gradients, preprocessing):
    classifier = make(preprocessing_defences=preprocessing)
    for parameter in classifier.model.parameters():
        parameter.grad = None if gradients is None else torch.full_like(parameter, gradients)
    before = [parameter.grad for parameter in classifier.model.parameters()]
    values = copy.deepcopy(before)
    for call in (
        lambda: classifier.class_gradient(X),
        lambda: classifier.class_gradient(X, label=2),
        lambda: classifier.class_gradient(X, label=Y),
        lambda: classifier.loss_gradient(X, ROWS),
        # ART's own goes through no preprocessing in numpy.
        *([] if preprocessing else [lambda: classifier.custom_loss_gradient(torch.norm, X, X[::-1].copy(), 1)]),
    ):
        call()
        after = [parameter.grad for parameter in classifier.model.parameters()]
        assert all(first is second for first, second in zip(before, after, strict=True))
        assert all(v is None or torch.equal(v, a) for v, a in zip(values, after, strict=True))


@pytest.mark.parametrize("defence", [None, SpatialSmoothing(channels_first=True)], ids=["plain", "smoothed"])
def test_labels_may_be_class_indices(defence):
    classifier = make(preprocessing_defences=defence)
    expected = classifier.loss_gradient(X, ROWS)
    for labels in (Y, Y.astype(np.float32), Y.tolist(), Y.astype(np.uint8)):
        assert np.array_equal(classifier.loss_gradient(X, labels), expected)
    if defence is None:
        found = classifier.loss_gradient(torch.tensor(X), torch.tensor(Y))
        assert np.allclose(found, expected, atol=1e-7)
    for wrong in (Y + 1, Y - 1, Y + 0.5):
        with pytest.raises(ValueError, match=r"`y` has .*class indices"):
            classifier.loss_gradient(X, wrong)


@pytest.mark.parametrize("layer", [None, "no such", 4, -5, 1.0, True])
def test_a_layer_that_is_not_there_is_named(layer):
    with pytest.raises(ValueError, match=r"`layer` is .*; expected one of 0, 1, 2, 3, or an index below 4"):
        make().get_activations(X, layer)


def test_a_failed_loss_leaves_its_reduction():
    classifier = make()
    with pytest.raises((RuntimeError, ValueError)):
        classifier.compute_loss(X[:, :, :2], ROWS, reduction="none")
    assert classifier.loss.reduction == "mean"
