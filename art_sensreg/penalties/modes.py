"""The mode of a model, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """
    Evaluation mode inside; afterwards every module has its former mode.

    :param model: The model.

    Example:
    >>> from art_sensreg.penalties.modes import modes_kept
    >>> model = nn.Dropout().train()
    >>> with modes_kept(model):
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
