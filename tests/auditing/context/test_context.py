"""What every check gets."""

from __future__ import annotations

import numpy as np
import pytest

from tests.auditing.reports import context_of


@pytest.fixture(scope="module")
def context(digits, tiny):
    return context_of(tiny, digits.x_test[:100], digits.y_test[:100])


@pytest.mark.parametrize(
    ("nominal", "share", "points", "expected"),
    [
        (0.2, 0.5, 100, 0.2),
        (0.01, 0.5, 100, 1.959964 * 0.05),
        (0.01, 0.0, 50, 0.02),
        (0.01, 1.0, None, 0.01),
    ],
)
def test_a_threshold_is_not_finer_than_the_sampling_error(context, nominal, share, points, expected):
    assert context.tolerance(nominal, share, points) == pytest.approx(expected, rel=1e-6)


def test_the_same_images_are_put_to_another_classifier(context, plain, digits):
    other = context.of(plain)
    assert other.inputs.classifier is plain
    assert other.inputs.x is context.inputs.x
    assert np.array_equal(other.model.outputs, plain.predict(digits.x_test[:100]))
    assert (other.inputs.eps, other.inputs.seed, other.inputs.effort) == (0.1, 0, context.inputs.effort)


def test_what_is_shared_is_computed_once(context):
    assert context.attacks.survivors is context.attacks.survivors
    assert context.attacks.reference is context.attacks.reference
    assert context.model.outputs is context.model.outputs
