"""Whether a penalty can move a weight, against what is known of each model: which weights are trained, and how."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from art_sensreg import FisherRaoPenalty, GradientDiversityPenalty, JacobianPenalty, SensitivityPenalty
from art_sensreg.penalties.effect import TrainedBatch, penalty_effect, tapped_layers
from art_sensreg.randomization import randomize


class Gate(torch.autograd.Function):
    """Of what is called inside it nothing is its output: no tap there has a gradient."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x).clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - torch.tanh(x) ** 2)


class Net(nn.Module):
    """A backbone of two layers and a head of two; `between` stands between them."""

    def __init__(self, between=lambda x: x, around=None, act=torch.tanh):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        layers = [nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)]
        self.backbone, self.head = nn.ModuleList(layers[:2]), nn.ModuleList(layers[2:])
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.between, self.around, self.act = between, around, act

    def features(self, x):
        return self.act(self.backbone[1](self.act(self.backbone[0](x))))

    def forward(self, x):
        if self.around is None:
            hidden = self.features(x)
        else:
            with self.around():
                hidden = self.features(x)
        return self.head[1](torch.sigmoid(self.head[0](self.between(hidden))))


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def images(n=4):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1))


def head_only(model, last=0):
    """Only the head is trained, from its layer `last` on."""
    model.requires_grad_(False)
    model.head[last:].requires_grad_(True)
    return model


def biases(model):
    model.requires_grad_(False)
    model.head[1].bias.requires_grad_(True)
    return model


MODELS = {
    "all trained": (Net(), [True, True, True]),
    "no_grad": (Net(around=torch.no_grad), [False, False, True]),
    "detached": (Net(between=torch.Tensor.detach), [True, True, True]),
    "frozen backbone": (head_only(Net()), [False, False, True]),
    "linear head": (head_only(Net(), 1), [False, False, False]),
    "autograd function": (Net(act=Gate.apply), [False, False, True]),
    "one bias": (biases(Net()), [False, False, False]),
}


@pytest.mark.parametrize(("model", "expected"), MODELS.values(), ids=MODELS)
def test_which_layers_move_a_weight(model, expected):
    layers = tapped_layers(model, images(), "hidden", trained(model))
    assert [layer.trains for layer in layers] == expected
    assert [layer.name for layer in layers] == ["tanh", "tanh", "sigmoid"]
    assert [layer.neurons for layer in layers] == [5, 5, 5]


def gradient_is_zero(penalty, model):
    """The oracle: differentiate the penalty by each trained weight, with its own call."""
    value = penalty(model, images(), torch.zeros(4, dtype=torch.long))
    if not value.requires_grad:
        return True
    gradients = torch.autograd.grad(value, trained(model), allow_unused=True)
    return all(gradient is None or gradient.norm() <= 1e-5 * value.abs() for gradient in gradients)


def batch_of(model):
    labels = torch.zeros(4, dtype=torch.long)
    return TrainedBatch(model=model, x=images(), y=labels, parameters=trained(model))


PENALTIES = {
    "SR": SensitivityPenalty(),
    "JR": JacobianPenalty(sigma=0.1),
    "JR projection": JacobianPenalty(estimator="projection"),
    "JR exact": JacobianPenalty(estimator="exact"),
    "FIRE": FisherRaoPenalty(eps=0.1, eps_step=0.05, max_iter=2),
    "GradDiv": GradientDiversityPenalty(samples=2),
}


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("name", ["all trained", "frozen backbone", "linear head", "one bias"])
def test_which_penalties_move_a_weight(name, penalty):
    model = MODELS[name][0]
    if isinstance(penalty, GradientDiversityPenalty):
        model = randomize(model, kind="rse")
    effect = penalty_effect(penalty, batch_of(model))
    layers = tapped_layers(model, images(), "hidden", trained(model)) if penalty is PENALTIES["SR"] else []
    trains = effect and (not layers or any(layer.trains for layer in layers))
    assert trains is not gradient_is_zero(penalty, model)


def test_a_penalty_whose_gradient_is_zero_only_at_the_first_weights():
    """A head that starts at zero: JR is 0 and so is its gradient, and neither stays so."""
    model = Net()
    nn.init.zeros_(model.head[1].weight)
    penalty = JacobianPenalty(sigma=0.1)
    assert gradient_is_zero(penalty, model)
    assert penalty_effect(penalty, batch_of(model))


def test_a_straight_through_estimator_has_an_effect():
    """Its value does not see a small change of the weights, which its gradient moves."""

    def binarised(x):
        return torch.tanh(x) + (torch.sign(x) - torch.tanh(x)).detach()

    model = Net()
    model.requires_grad_(False)
    model.backbone[1].requires_grad_(True)
    model.act = binarised
    layers = tapped_layers(model, images(), [nn.Linear], trained(model))
    assert [layer.trains for layer in layers] == [False, True, True, True]
    penalty = SensitivityPenalty(layers=["head.1"], sigma=1.0)
    assert penalty_effect(penalty, batch_of(model))


def test_dead_units_are_no_proof():
    model = head_only(Net(act=F.relu))
    nn.init.constant_(model.head[0].bias, -100.0)
    layers = tapped_layers(model, images(), "hidden", trained(model))
    assert [layer.trains for layer in layers] == [False, False, True]


def test_batch_norm_in_training_mode():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.ReLU(), nn.Linear(3, 2)).train()
    model[3].requires_grad_(False)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    (layer,) = tapped_layers(model, images(1), "hidden", trained(model))
    assert layer.trains
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_the_model_does_not_change():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.ReLU(), nn.Linear(3, 2)).train()
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    tapped_layers(model, images(), "hidden", trained(model))
    for penalty in (SensitivityPenalty(), JacobianPenalty(), JacobianPenalty(estimator="exact")):
        penalty_effect(penalty, batch_of(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_modules_are_named():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), Net(), nn.Flatten())
    model[0][0] = nn.Linear(4, 4)
    texts = [str(layer) for layer in tapped_layers(model, images(), ["0.1", "1"], trained(model))]
    assert texts == ["'0.1'", "'1'"]
    texts = [str(layer) for layer in tapped_layers(model, images(), "hidden+logits", trained(model))]
    assert texts == ["'relu' in '0.1'", "'tanh' in '1'", "'tanh' in '1'", "'sigmoid' in '1'", "'logits'"]
