import pytest
import torch
from torch import nn

from art_sensreg.models import ACTIVATIONS, MODELS, NORM_LAYERS, build_model
from art_sensreg.penalties.forward.taps import plan_taps


@pytest.mark.parametrize("norm_layer", NORM_LAYERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8)])
def test_every_combination_gives_logits(name, activation, norm_layer, shape):
    model = build_model(name, shape, 7, activation, norm_layer).eval()
    assert model(torch.rand(2, *shape)).shape == (2, 7)
    assert any(isinstance(m, ACTIVATIONS[activation]) for m in model.modules())
    assert any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()) == (norm_layer == "batch")
    assert not isinstance(model, nn.Sequential)  # ART's TRADES and FBF crash on those


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("name", "layers"), [("mlp", 1), ("cnn-small", 4), ("cnn-medium", 6), ("lenet", 4), ("resnet-small", 7)]
)
def test_penalties_find_every_activation_once(name, layers, activation):
    model = build_model(name, (1, 8, 8), 7, activation, "batch")
    assert plan_taps(model, "hidden", torch.rand(2, 1, 8, 8)).names == (activation,) * layers


def test_cnn_small_has_the_size_of_the_design():
    model = build_model("cnn-small", (1, 28, 28), 10)
    work = 0

    def count(module, inputs, output):
        nonlocal work
        per_output = module.weight[0].numel()
        work += per_output * output[0].numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    model(torch.zeros(1, 1, 28, 28))
    assert 1.6e6 < work < 1.75e6


def test_cnn_medium_has_the_size_of_the_paper():
    model = build_model("cnn-medium", (1, 28, 28), 10)
    sizes = [tuple(parameter.shape) for parameter in model.parameters() if parameter.dim() > 1]
    convolutions = [(32, 1, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)]
    assert sizes == [*convolutions, (200, 64 * 4 * 4), (200, 200), (10, 200)]


def test_preact_resnet18_has_the_size_of_the_paper():
    model = build_model("preact-resnet18", (3, 32, 32), 10, norm_layer="batch").eval()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(11.17, abs=0.005)
    assert [module for module in model.features if isinstance(module, nn.BatchNorm2d)][-1].num_features == 512
    sizes = []
    for module in model.modules():
        if type(module).__name__ == "PreActBlock":
            module.register_forward_hook(lambda module, inputs, output: sizes.append(tuple(output.shape[1:])))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sizes == [(width, side, side) for width, side in ((64, 32), (128, 16), (256, 8), (512, 4)) for _ in range(2)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vgg",), r"`model` is 'vgg'; expected one of mlp, cnn-small"),
        (("mlp", "tanh"), r"`activation` is 'tanh'; expected one of relu, gelu, silu, softplus"),
        (("mlp", "relu", "layer"), r"`norm_layer` is 'layer'; expected one of none, batch"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_model(arguments[0], (1, 8, 8), 10, *arguments[1:])


@pytest.mark.parametrize("name", MODELS)
def test_every_part_starts_in_training_mode(name):
    assert all(module.training for module in build_model(name, (1, 28, 28), 7, norm_layer="batch").modules())
