import numpy as np
import pytest
import torch

from art_sensreg.utils.arrays import as_array, as_numbers, shape_or_type


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2]],
        ((1.0, 2.0),),
        np.array([[1, 2]], dtype=">i2"),
        np.array([[1, 0, 2]])[:, ::2],
        torch.tensor([[1.0, 2.0]], requires_grad=True),
        torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16),
    ],
)
def test_numbers_are_read_from_whatever_they_come_in(values):
    np.testing.assert_array_equal(as_numbers(values, "x"), [[1, 2]])


def test_the_dtype_stays():
    assert as_array(np.float16([1]), "x").dtype == np.float16
    assert as_array(torch.ones(1, dtype=torch.bfloat16), "x").dtype == np.float32


class Broken:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("no")


@pytest.mark.parametrize("values", [[[1], [2, 3]], np.ma.masked_equal([1, 2], 2), Broken()])
def test_what_cannot_be_read_is_named(values):
    with pytest.raises(ValueError, match=r"^`x` "):
        as_array(values, "x")


@pytest.mark.parametrize("values", ["text", [None], [1j], np.array(["2020"], dtype="datetime64[D]")])
def test_other_than_real_numbers_is_refused(values):
    with pytest.raises(TypeError, match="expected an array of real numbers"):
        as_numbers(values, "x")


def test_a_models_output_is_described_by_shape_or_class():
    assert [shape_or_type(value) for value in (torch.zeros(2, 3), (1,))] == ["shape (2, 3)", "tuple"]
