"""Honest outputs with gradients that are cut, turned, replaced or not numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg import SensRegClassifier
from art_sensreg.datasets import Dataset
from tests.auditing.models.planted_base import Front, Planted, front, planted, seeded

DETACHED = "The input is detached: autograd sees no way, or only a meaningless one, from the image to the logits."
TURNED = "The gradient points the wrong way."
REPLACED = "The gradient is that of something else than the model."
LOST = "The gradient is zeroed or drowned on its way back."
NOT_NUMBERS = "The gradient is NaN or infinite."

Backward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def with_backward(backward: Backward) -> Callable[[torch.Tensor], torch.Tensor]:
    """The identity, with a backward pass of its own: a function of the image and the true gradient."""

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return backward(ctx.saved_tensors[0], grad)

    return lambda x: Identity.apply(x)


def hooked(hook: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def transform(x: torch.Tensor) -> torch.Tensor:
        x = x * 1
        if x.requires_grad:
            x.register_hook(hook)
        return x

    return transform


def fixed_like(grad: torch.Tensor, draw: Callable[..., torch.Tensor]) -> torch.Tensor:
    return draw(grad.shape[1:], generator=torch.Generator().manual_seed(0)).to(grad.dtype)


def permuted(grad: torch.Tensor) -> torch.Tensor:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    return grad.flatten(1)[:, order].view_as(grad)


def fixed_signs(grad: torch.Tensor) -> torch.Tensor:
    return grad * fixed_like(grad, torch.randn).sign()


def random_signs(grad: torch.Tensor) -> torch.Tensor:
    return grad * torch.randn_like(grad).sign()


def drowned(grad: torch.Tensor) -> torch.Tensor:
    return grad + 20 * grad.abs().mean() * torch.randn_like(grad)


def on_the_grid(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """The true gradient at clean images (whole sixteenths), zero wherever an attack has moved to."""
    clean = ((x * 16 - (x * 16).round()).abs() < 1e-4).flatten(1).all(1)
    return grad * clean.view(-1, 1, 1, 1)


def half_of_pixels(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """No gradient for the pixels that matter most."""
    size = grad.abs().flatten(1)
    return grad * (size <= size.median(1, keepdim=True).values).view_as(grad)


class FrozenAndDetached(nn.Module):
    """Nothing requires a gradient, so that the backward pass raises."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(x.detach())
        return logits


class NoGradFeatures(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            features = self.base.features(x)
        logits: torch.Tensor = self.base.head(features)
        return logits


class TinyPath(nn.Module):
    """All of the prediction detached, beside a differentiable random path too weak to change it."""

    def __init__(self, base: nn.Module, weight: float = 1e-3) -> None:
        super().__init__()
        self.base = base
        self.path = seeded(lambda: nn.Linear(64, 10))
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x.detach()) + self.weight * self.path(x.flatten(1))


class ConstantSide(nn.Module):
    """Autograd sees the image's mean only, added to every logit alike: the loss does not depend on it."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x.detach()) + x.flatten(1).mean(1, keepdim=True)


class OneChannelAttached(nn.Module):
    """Fifteen of the first layer's sixteen channels detached."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.base.features[0](x)
        hidden = torch.cat([hidden[:, :1], hidden[:, 1:].detach()], 1)
        logits: torch.Tensor = self.base.head(self.base.features[1:](hidden))
        return logits


class Decoy(nn.Module):
    """The value of one model and the gradient of another."""

    def __init__(self, base: nn.Module, by_grad_mode: bool) -> None:
        super().__init__()
        self.base = base
        self.decoy = seeded(lambda: fresh(base))
        self.by_grad_mode = by_grad_mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.base(x.detach())
        if self.by_grad_mode:
            return self.decoy(x) if torch.is_grad_enabled() and x.requires_grad else logits
        other = self.decoy(x)
        return logits + other - other.detach()


def fresh(base: nn.Module) -> nn.Module:
    model = copy.deepcopy(base)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def module_hook(digits: Dataset, base: nn.Module) -> nn.Module:
    """A full backward hook on the first layer: no trace of it in any forward pass."""
    base.features[0].register_full_backward_hook(
        lambda module, grad_input, grad_output: tuple(g if g is None else torch.zeros_like(g) for g in grad_input)
    )
    return base


def hidden_sign_flip(digits: Dataset, base: nn.Module) -> nn.Module:
    """Half of the channels of a hidden layer get their gradient with the wrong sign."""
    signs = torch.ones(32, 1, 1)
    signs[::2] = -1
    flip = Front(nn.Identity(), with_backward(lambda x, grad: grad * signs))
    base.features.insert(4, flip)
    return base


class MinusClassifier(PyTorchClassifier):
    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        return -super().loss_gradient(x, y, training_mode=training_mode, **kwargs)


class MinusSensRegClassifier(SensRegClassifier):
    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        return -super().loss_gradient(x, y, training_mode=training_mode, **kwargs)


class BlindClassifier(PyTorchClassifier):
    """Gradients of both kinds are zero."""

    def loss_gradient(self, x: Any, y: Any, training_mode: bool = False, **kwargs: Any) -> Any:
        return super().loss_gradient(x, y, training_mode=training_mode, **kwargs) * 0

    def class_gradient(self, x: Any, label: Any = None, training_mode: bool = False, **kwargs: Any) -> Any:
        return super().class_gradient(x, label, training_mode=training_mode, **kwargs) * 0


def nan_of_where(x: torch.Tensor) -> torch.Tensor:
    """The well-known trap: the branch not taken still sends 0 * inf backward."""
    return torch.where(x > 0, torch.exp(torch.log(x)), torch.zeros_like(x))


def nan_of_norm(x: torch.Tensor) -> torch.Tensor:
    return x + torch.sqrt((x - x.detach()).pow(2).flatten(1).sum(1)).view(-1, 1, 1, 1)


def same(digits: Dataset, base: nn.Module) -> nn.Module:
    return base


def backward_fault(name: str, fault: str, backward: Backward, kind: Any = PyTorchClassifier) -> Planted:
    return front(name, fault, with_backward(backward), kind)


FAULTS = [
    front("detached_input", DETACHED, lambda x: x.detach()),
    front("detached_input_of_sensreg_classifier", DETACHED, lambda x: x.detach(), SensRegClassifier),
    planted("detached_and_frozen", DETACHED, lambda d, b: FrozenAndDetached(b)),
    planted("detached_features", DETACHED, lambda d, b: NoGradFeatures(b)),
    planted("detached_features_of_sensreg_classifier", DETACHED, lambda d, b: NoGradFeatures(b), SensRegClassifier),
    planted("detached_but_for_a_tiny_path", DETACHED, lambda d, b: TinyPath(b)),
    planted("detached_but_for_a_tiny_path_of_sensreg", DETACHED, lambda d, b: TinyPath(b, 1e-2), SensRegClassifier),
    planted("detached_but_for_a_constant", DETACHED, lambda d, b: ConstantSide(b)),
    planted("detached_but_for_one_channel", DETACHED, lambda d, b: OneChannelAttached(b)),
    front("detached_important_pixels", DETACHED, with_backward(half_of_pixels)),
    backward_fault("sign_flip", TURNED, lambda x, grad: -grad),
    backward_fault("sign_flip_of_sensreg_classifier", TURNED, lambda x, grad: -0.5 * grad, SensRegClassifier),
    planted("sign_flip_in_hidden_layer", TURNED, hidden_sign_flip),
    planted("sign_flip_in_loss_gradient", TURNED, same, MinusClassifier),
    planted("sign_flip_in_loss_gradient_of_sensreg", TURNED, same, MinusSensRegClassifier),
    planted("zero_in_loss_and_class_gradient", LOST, same, BlindClassifier),
    front("hook_permutes_pixels", TURNED, hooked(permuted)),
    front("hook_turns_image", TURNED, hooked(lambda grad: grad.flip(2))),
    front("hook_multiplies_fixed_signs", TURNED, hooked(fixed_signs)),
    front("hook_multiplies_random_signs", LOST, hooked(random_signs)),
    front("hook_adds_noise", LOST, hooked(drowned)),
    front("hook_draws_gradient", REPLACED, hooked(torch.randn_like), SensRegClassifier),
    front("hook_returns_constant", REPLACED, hooked(lambda grad: torch.full_like(grad, 0.01))),
    front("hook_zeroes", LOST, hooked(torch.zeros_like)),
    planted("hook_on_module_zeroes", LOST, module_hook),
    front("hardtanh_on_input", "Pixels on the ends of the range, which most are, have no gradient.", nn.Hardtanh(0, 1)),
    backward_fault("gradient_underflows", LOST, lambda x, grad: grad * 1e-30 * 1e-20),
    backward_fault("gradient_at_clean_images_only", LOST, on_the_grid),
    planted("gradient_of_another_model", REPLACED, lambda d, b: Decoy(b, by_grad_mode=False)),
    planted("another_model_when_asked_for_gradients", REPLACED, lambda d, b: Decoy(b, by_grad_mode=True)),
    front("nan_of_square_root", NOT_NUMBERS, lambda x: x.sqrt().pow(2)),
    front("nan_of_where", NOT_NUMBERS, nan_of_where),
    front("nan_of_norm", NOT_NUMBERS, nan_of_norm),
    backward_fault("nan_in_backward", NOT_NUMBERS, lambda x, grad: grad * float("nan"), SensRegClassifier),
    backward_fault("infinite_in_backward", NOT_NUMBERS, lambda x, grad: grad.abs() * float("inf")),
]
