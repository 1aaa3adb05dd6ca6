import numpy as np
import pytest
import torch
from torch import nn

from art_sensreg.art_bridge.dtypes import cast, model_dtype, numpy_dtype, walk


def test_the_first_floating_point_parameter_decides():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
            self.layer = nn.Linear(2, 2).double()

    assert model_dtype(Counted()) is torch.float64
    assert model_dtype(nn.ReLU()) is torch.float32
    assert numpy_dtype(nn.Linear(2, 2).half()) == np.float16


def test_types_that_numpy_does_not_have_are_refused():
    with pytest.raises(TypeError, match=r"`model` computes in torch.bfloat16; expected parameters in float16, float32"):
        numpy_dtype(nn.Linear(2, 2).bfloat16())


@pytest.mark.parametrize("kind", [torch.float16, torch.float32, torch.float64])
def test_images_are_cast_to_the_models_type(kind):
    model = nn.Linear(2, 2).to(kind)
    x = np.arange(4.0).reshape(2, 2)[::-1]
    assert torch.from_numpy(cast(x, model)).dtype is cast(torch.zeros(1), model).dtype is kind
    assert np.array_equal(cast(x, model), x)
    objects = np.empty(2, dtype=object)
    assert cast(objects, model) is objects


def test_modules_are_walked_in_torchs_order():
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU(), nn.Linear(1, 1)), nn.Tanh())
    assert list(walk(model)) == list(model.modules())
