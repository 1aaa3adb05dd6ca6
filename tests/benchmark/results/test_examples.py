"""The images that a page shows: what is stored is read again, and nothing else."""

import numpy as np
import pytest

from art_sensreg.benchmark.results.examples import Examples, read_examples, write_examples

NAME = "examples/sr-seed0.npz"


def some(**changes) -> Examples:
    x = np.random.default_rng(0).random((3, 1, 4, 4), dtype=np.float32)
    values = {
        "norm": "l2",
        "eps": 0.5,
        "steps": 20,
        "x": x,
        "x_adv": x[::-1],
        "y": np.arange(3),
        "logits": np.zeros((2, 3, 10)),
    }
    return Examples(**{**values, **changes})


def test_what_is_written_is_read_again(tmp_path):
    write_examples(tmp_path, NAME, some())
    found = read_examples(tmp_path, NAME)
    assert (found.norm, found.eps, found.steps) == ("l2", 0.5, 20)
    for name in ("x", "x_adv", "y", "logits"):
        assert np.array_equal(getattr(found, name), getattr(some(), name))


@pytest.mark.parametrize(
    "changes", [{"x_adv": np.zeros((2, 1, 4, 4))}, {"logits": np.zeros((3, 10))}, {"y": np.zeros(2)}]
)
def test_what_does_not_fit_together_is_refused(tmp_path, changes):
    write_examples(tmp_path, NAME, some(**changes))
    with pytest.raises(ValueError, match=NAME):
        read_examples(tmp_path, NAME)


def test_a_name_leads_nowhere_else(tmp_path):
    with pytest.raises(ValueError, match="not a file in examples/"):
        read_examples(tmp_path, "examples/../../secret.npz")
