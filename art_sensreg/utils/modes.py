"""The mode of a model: evaluation or frozen weights for a while, or the mode in which it is trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def preserve_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """
    Afterwards every module has its former mode.

    :param modules: The modules, as `model.modules()` lists them.

    Example:
    >>> from art_sensreg.utils.modes import preserve_mode
    >>> model = nn.Dropout()
    >>> with preserve_mode(model.modules()):
    ...     _ = model.eval()
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in modules]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """
    Evaluation mode inside; afterwards every module has its former mode.

    :param model: The model.

    Example:
    >>> from art_sensreg.utils.modes import eval_mode
    >>> model = nn.Dropout().train()
    >>> with eval_mode(model):
    ...     inside = model.training
    >>> inside, model.training
    (False, True)
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        # Some modules do more than note their mode: adapters fold their weights into those of a layer, and out again.
        if modes[0][1]:
            model.train()
        for module, training in modes:
            module.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """
    No weight asks for a gradient inside: attacks need that of the images alone.

    :param model: The model.

    Example:
    >>> from art_sensreg.utils.modes import frozen
    >>> model = nn.Linear(1, 1)
    >>> with frozen(model):
    ...     inside = model.weight.requires_grad
    >>> inside, model.weight.requires_grad
    (False, True)
    """
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

    :param model: The model.
    :param training_mode: Whether that is training mode. BatchNorm layers whose parameters all are frozen stay in
        evaluation mode all the same: fine-tuning must not move their running statistics either.
    """
    model.train(training_mode)
    for module in model.modules():
        own = list(module.parameters()) if isinstance(module, _BatchNorm) else []
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
