"""
Models that ART would take apart.

ART calls the children of an `nn.Sequential` in turn instead of the module itself, and so skips the module's own
`forward` and hooks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from art_sensreg.art_bridge.dtypes import model_dtype

logger = logging.getLogger(__name__)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_its_children(model: nn.Module) -> bool:
    """Whether a model is an `nn.Sequential` that does nothing but call its children in turn."""
    kind = type(model)
    return (
        isinstance(model, nn.Sequential)
        and kind.forward is nn.Sequential.forward
        and kind.__call__ is nn.Module.__call__
        and "forward" not in model.__dict__
        and not any(map(model.__dict__.get, _HOOKS))
    )


def whole(model: nn.Module) -> nn.Module:
    """A model that ART does not take apart: a `WholeModel` if it is a Sequential that is more than its children."""
    if not isinstance(model, nn.Sequential) or is_its_children(model):
        return model
    return WholeModel(model)


class WholeModel(nn.Module):
    """A model in a class that is not `nn.Sequential`: the same attributes, weights, hooks and names of layers."""

    __slots__ = ("whole",)
    whole: nn.Module

    def __init__(self, model: nn.Module) -> None:
        # Not `super().__init__()`: every attribute set here is set on the wrapped model.
        object.__setattr__(self, "whole", model)
        object.__setattr__(self, "__dict__", model.__dict__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See the model's own `forward`."""
        return self.whole.forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return WholeModel, (self.whole,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def __getitem__(self, index: Any) -> Any:
        layers: Any = self.whole
        return layers[index]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[nn.Module]:
        layers: Any = self.whole
        return iter(layers)

    def train(self, mode: bool = True) -> WholeModel:
        self.whole.train(mode)
        return self

    def named_modules(self, *args: Any, **kwargs: Any) -> Any:
        # The model itself, for code that looks for its class.
        return self.whole.named_modules(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole.load_state_dict(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self.whole)


class ArtModelWrapper(nn.Module):
    """ART's wrapper of a model, except that it calls a Sequential with a `forward` or hooks of its own as a whole."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, x: torch.Tensor) -> list[Any]:
        """
        Outputs of the layers, as in ART: of each child of a Sequential, of other models only the logits.

        Only where no gradient is recorded: keeping the output of each child would double the time of a convolutional
        network.
        """
        model = self._model
        half = model_dtype(model) is torch.bfloat16
        if half and x.is_floating_point():  # what comes from numpy, which has no such type, and goes back there
            x = x.to(torch.bfloat16)
        outputs = _outputs(model, x) if is_its_children(model) else [model(x)]
        if half and isinstance(outputs[-1], torch.Tensor):
            outputs[-1] = outputs[-1].float()
        return outputs

    @property
    def get_layers(self) -> list[str]:
        """Names of the outermost layers."""
        return [name for name, _ in self._model._modules.items()]  # TorchScript's is no mapping


def _outputs(model: nn.Module, x: Any) -> list[Any]:
    outputs: list[Any] = []
    for child in model._modules.values():
        assert child is not None
        x = child(x)
        outputs = [*outputs, x] if torch.is_grad_enabled() else [x]
    return outputs


def keep_whole(classifier: PyTorchClassifier) -> None:
    """Make a classifier of ART's own call its model as a whole, as training does; a warning says so."""
    model = whole(classifier.model)
    if model is not classifier.model and not isinstance(classifier._model, ArtModelWrapper):
        classifier._model = classifier._make_model_wrapper(model)
        logger.warning(
            "`model` of the classifier is an nn.Sequential with a `forward` or hooks of its own, which ART leaves out: "
            "it calls the children in turn. This classifier now calls the model itself."
        )


def predicting_model(classifier: PyTorchClassifier) -> nn.Module:
    """The model as a classifier's `predict` runs it: for a Sequential that ART takes apart, the children in turn."""
    model: nn.Module = classifier.model
    if isinstance(classifier._model, ArtModelWrapper) or whole(model) is model:
        return model
    children = nn.Sequential(*(child for child in model._modules.values() if child is not None))
    return children.train(model.training)
