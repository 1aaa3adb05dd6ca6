from fractions import Fraction

import numpy as np
import pytest

from art_sensreg.interpret import ExplanationConfig


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sigma": 0.0}, ValueError, "`sigma`"),
        ({"radius": float("nan")}, ValueError, "`radius`"),
        ({"radius": -1}, ValueError, "`radius`"),
        ({"samples": 1.5}, TypeError, "`samples`"),
        ({"samples": 0}, ValueError, "`samples`"),
        ({"steps": 0}, ValueError, "`steps`"),
        ({"batch_size": 0}, ValueError, "`batch_size`"),
        ({"seed": "0"}, TypeError, "`seed`"),
        ({"seed": -1}, ValueError, "`seed`"),
    ],
)
def test_settings_out_of_range_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        ExplanationConfig(**settings)


def test_numbers_of_any_library_become_pythons():
    config = ExplanationConfig(sigma=Fraction(1, 4), steps=np.int64(3), seed=np.uint8(7))
    assert (config.sigma, config.steps, config.seed) == (0.25, 3, 7)
    assert type(config.steps) is int
