"""The mode of a model: evaluation or frozen weights for a while, or the mode in which it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def preserve_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Afterwards every one of the modules, as `model.modules()` lists them, is in its former mode."""
    modes = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in its former mode."""
    training = model.training
    with preserve_mode(model.modules()):
        try:
            model.eval()
            yield
        finally:
            # Some modules do more than note their mode: adapters fold their weights into those of a layer, and back.
            if training:
                model.train()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no weight requires grad: attacks need the gradient with respect to the images alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def set_mode(model: nn.Module, training_mode: bool) -> None:
    """
    Put a model into the mode in which it is trained.

    BatchNorm layers whose parameters are all frozen stay in evaluation mode: fine-tuning must not move their running
    statistics either.
    """
    model.train(training_mode)
    for module in model.modules():
        own = list(module.parameters()) if isinstance(module, _BatchNorm) else []
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
