"""Images in every form that holds them are attacked alike; what is no set of images in range is refused."""

from functools import partial

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.attacks.base.norms import Ball
from art_sensreg.attacks.base.predictions import predicted_labels
from art_sensreg.auditing.checks.linear_truth import linear_margins
from tests.attacks.base.linear import ATTACKS, EPS, SHAPE, WEIGHT, X, Y, classifier_of


def frozen(x):
    x = x.copy()
    x.setflags(write=False)
    return x


SAME = {
    "negative strides": lambda x: x[::-1, :, ::-1].copy()[::-1, :, ::-1],
    "big-endian": lambda x: x.astype(">f4"),
    "column-major": np.asfortranarray,
    "read-only": frozen,
    "masked nowhere": np.ma.masked_array,
    "tensor": torch.from_numpy,
    "tensor with a gradient": lambda x: torch.from_numpy(x.copy()).requires_grad_(True),
    "float64": lambda x: x.astype(np.float64),
    "long double": lambda x: x.astype(np.longdouble),
    "list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_images_in_every_form_are_attacked_alike(attack):
    usual = ATTACKS[attack](classifier_of(), eps=EPS).generate(X, Y)
    for name, form in SAME.items():
        made = ATTACKS[attack](classifier_of(), eps=EPS).generate(form(X), Y)
        assert type(made) is np.ndarray
        assert made.shape == X.shape
        assert np.allclose(made, usual, atol=1e-6), name
    for labels in (Y[:, None], np.eye(4)[Y], Y.tolist(), torch.from_numpy(Y), Y[::-1].copy()[::-1], Y.astype(">i4")):
        assert np.array_equal(ATTACKS[attack](classifier_of(), eps=EPS).generate(X, labels), usual)


@pytest.mark.parametrize("attack", ["ascent", "hidden", "sink", "official"])
def test_one_image_no_image_and_integers(attack):
    make = partial(ATTACKS[attack], classifier_of(clip_values=(0, 255)), eps=25.0)
    assert make().generate(X[:1] * 255, Y[:1]).shape == (1, *SHAPE)
    pixels = (X * 255).astype(np.uint8)
    if attack == "official":
        with pytest.raises(TypeError, match="`x` has dtype uint8; expected floating point"):
            make().generate(pixels, Y)
        with pytest.raises(ValueError, match="`x` is empty"):
            make().generate(X[:0], Y[:0])
        return
    assert np.array_equal(make().generate(pixels, Y), make().generate(pixels.astype(np.float32), Y))
    assert make().generate(X[:0], Y[:0]).shape == (0, *SHAPE)


REFUSED = [
    (np.where(X > 0.9, np.nan, X), ValueError, "`x` has NaN or infinite values in"),
    (np.where(X > 0.9, -np.inf, X), ValueError, "`x` has NaN or infinite values in"),
    (X * 255, ValueError, r"`x` has values from .* expected \[0, 1\], the classifier's `clip_values`"),
    (X - 0.01, ValueError, r"`x` has values from .* expected \[0, 1\], the classifier's `clip_values`"),
    ((X * 255).astype(np.uint8), (ValueError, TypeError), "`x` has values from 0 to|`x` has dtype uint8"),
    (X[0], ValueError, r"`x` has shape \(3, 2, 2\); expected \(n, 3, 2, 2\)"),
    (X.reshape(12, 12), ValueError, r"`x` has shape \(12, 12\)"),
    (X.transpose(0, 2, 3, 1), ValueError, r"`x` has shape \(12, 2, 2, 3\)"),
    (np.ma.masked_array(X, mask=X > 0.5), ValueError, "`x` has masked values"),
    (X.astype(object), TypeError, "`x` has dtype object; expected an array of real numbers"),
    (X.astype(str), TypeError, "`x` has dtype <U32"),
    (X.astype(complex), TypeError, "`x` has dtype complex128"),
    ([[1.0, 2.0], [3.0]], ValueError, "`x` cannot be read as an array"),
    (None, TypeError, "`x` has dtype object"),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_no_set_of_images_in_range_is_refused(attack):
    made = ATTACKS[attack](classifier_of(), eps=EPS)
    for x, error, message in REFUSED:
        with pytest.raises(error, match=message):
            made.generate(x, Y)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_rounding_puts_outside_of_the_range_is_put_back(attack):
    outside = np.where(X > 0.9, np.float32(1 + 5e-7), X).astype(np.float32)
    made = ATTACKS[attack](classifier_of(), eps=EPS).generate(outside, Y)
    assert made.max() <= 1 + (5e-7 if attack == "official" else 0)
    assert np.abs(made - outside).max() <= EPS + 1e-6


@pytest.mark.parametrize("attack", ATTACKS)
def test_misspelt_arguments_are_refused(attack):
    made = ATTACKS[attack](classifier_of(), eps=EPS)
    hints = {"Y": r" Did you mean `y`\?", "xx": r" Did you mean `x`\?", "labels": "", "batch_size": ""}
    for name, hint in hints.items():
        with pytest.raises(TypeError, match=f"unknown keyword argument `{name}`=.*; expected x, y.{hint}$"):
            made.generate(X, **{name: Y})
    with pytest.raises(ValueError, match="`mask` is given"):
        made.generate(X, Y, mask=np.ones_like(X))
    made.generate(X, Y, mask=None)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_range_for_each_feature(attack):
    """Exact: a linear model in a box whose sides differ."""
    low, high = np.full(12, 0.25), np.where(np.arange(12) % 2, 0.625, 0.875)
    x = np.clip(X, low.reshape(SHAPE), high.reshape(SHAPE)).astype(np.float32)
    y = (x.reshape(12, 12) @ WEIGHT.T).argmax(axis=1)
    for clip in ((low, high), (low.reshape(SHAPE), high.reshape(SHAPE))):
        classifier = classifier_of(clip_values=clip)
        make = partial(ATTACKS[attack], classifier, eps=EPS)
        if attack == "official":
            with pytest.raises(ValueError, match="expected one range for all channels"):
                make().generate(x, y)
            continue
        made = make().generate(x, y)
        assert (made >= low.reshape(SHAPE) - 1e-7).all()
        assert (made <= high.reshape(SHAPE) + 1e-7).all()
        truth = linear_margins(WEIGHT, np.zeros(4), x, y, Ball("linf", EPS, low, high)) > 0
        assert np.array_equal(predicted_labels(classifier, made) == y, truth)
    unfit = classifier_of(PyTorchClassifier, clip_values=(np.zeros(3), np.ones(3)))
    made = ATTACKS["ascent" if attack == "transfer" else attack](unfit, eps=EPS)
    with pytest.raises(ValueError, match=r"`clip_values` holds arrays of shape \(3,\); expected"):
        made.generate(X, Y)


@pytest.mark.parametrize("kind", [SensRegClassifier, PyTorchClassifier])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("attack", ["ascent", "scaled", "sink", "official"])
def test_models_of_other_precisions(attack, dtype, kind):
    classifier = classifier_of(kind, dtype)
    make = partial(ATTACKS[attack], classifier, eps=EPS)
    if kind is PyTorchClassifier and dtype == torch.bfloat16:
        with pytest.raises(TypeError, match=r"`classifier` computes in bfloat16.* expected a SensRegClassifier"):
            make().generate(X)
        return
    # Images whose margin is beyond the rounding of half precision, before and after.
    margins = [linear_margins(WEIGHT, np.zeros(4), X, Y, Ball("linf", eps, 0, 1)) for eps in (0.0, EPS)]
    sure = (np.abs(np.array(margins)) > 0.05).all(axis=0)
    assert sure.sum() >= 8
    assert np.array_equal(predicted_labels(classifier, X)[sure], Y[sure])
    for y in (None, Y):
        made = make().generate(X, y)
        assert np.array_equal((predicted_labels(classifier, made) == Y)[sure], (margins[1] > 0)[sure])


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_default_type_of_new_tensors_changes_nothing(attack):
    usual = ATTACKS[attack](classifier_of(), eps=EPS).generate(X, Y)
    torch.set_default_dtype(torch.float64)
    try:
        made = ATTACKS[attack](classifier_of(dtype=torch.float32), eps=EPS).generate(X, Y)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.array_equal(made, usual)


def test_a_model_sees_the_users_default_type_inside_autoattack():
    class Doubles(nn.Module):
        def forward(self, x):
            assert torch.zeros(1).dtype == torch.float64
            return x.flatten(1)[:, :4]

    torch.set_default_dtype(torch.float64)
    try:
        settings = {"clip_values": (0, 1), "device_type": "cpu"}
        classifier = SensRegClassifier(Doubles(), nn.CrossEntropyLoss(), SHAPE, 4, **settings)
        attack = ATTACKS["official"](classifier, eps=EPS)
        attack.generate(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert attack.robust.mean() < 1
