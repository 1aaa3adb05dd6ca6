"""The mode in which a model is trained."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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
