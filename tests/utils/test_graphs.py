import torch
from torch import nn

from art_sensreg.utils.graphs import leaves, reached


def test_a_path_is_found_through_a_graph_deeper_than_python_recurses():
    weight = nn.Parameter(torch.ones(()))
    value = weight * 1.0
    for _ in range(5000):
        value = value + 0.1 * value
    assert reached([value, value.detach(), weight], [weight]) == [True, False, True]
    assert reached([value], [nn.Parameter(torch.ones(()))]) == [False]
    assert leaves([value]) == {id(weight)}
    assert leaves([value.detach()]) == set()


def test_all_leaves_of_several_tensors_are_found():
    layer, x = nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    y = layer(x)
    assert leaves([y.sum(), y * 2]) == {id(x), id(layer.weight), id(layer.bias)}
    assert reached([y, y.detach(), x], layer.parameters()) == [True, False, False]
