"""
Models that ART would take apart: it calls the children of an `nn.Sequential` in turn, and not the module itself.

So it leaves out a `forward` of the model's own, and hooks on it.
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
    """
    Whether a model is an `nn.Sequential` that does nothing but call its children in turn.

    :param model: Any module.
    :return: False for other modules, and for one with a `forward` or `__call__` of its own, or with hooks on itself.

    Example:
    >>> from art_sensreg.art_bridge.whole_model import is_its_children
    >>> class Twice(nn.Sequential):
    ...     def forward(self, x):
    ...         return super().forward(super().forward(x))
    >>> is_its_children(nn.Sequential(nn.ReLU())), is_its_children(Twice(nn.ReLU()))
    (True, False)
    """
    kind = type(model)
    return (
        isinstance(model, nn.Sequential)
        and kind.forward is nn.Sequential.forward
        and kind.__call__ is nn.Module.__call__
        and "forward" not in model.__dict__
        and not any(map(model.__dict__.get, _HOOKS))
    )


def whole(model: nn.Module) -> nn.Module:
    """
    A model that ART does not take apart.

    :param model: Any module.
    :return: The model itself, or a :class:`WholeModel` of an `nn.Sequential` that is more than its children.

    Example:
    >>> from art_sensreg.art_bridge.whole_model import whole
    >>> model = nn.Sequential(nn.ReLU())
    >>> whole(model) is model
    True
    >>> handle = model.register_forward_hook(lambda module, inputs, output: output + 1)
    >>> PyTorchClassifier(whole(model), None, (1,), 2).predict(torch.zeros(1, 1).numpy()).item()
    1.0
    """
    if not isinstance(model, nn.Sequential) or is_its_children(model):
        return model
    return WholeModel(model)


class WholeModel(nn.Module):
    """
    A model under a class that is no `nn.Sequential`: the same attributes, weights, hooks and names of layers.

    :param model: The model.

    Example:
    >>> from art_sensreg.art_bridge.whole_model import WholeModel
    >>> model = nn.Sequential(nn.Linear(2, 2))
    >>> same = WholeModel(model)
    >>> same.state_dict().keys() == model.state_dict().keys(), same[0] is model[0], same.train(False) is same
    (True, True, True)
    >>> model.training
    False
    """

    __slots__ = ("whole",)
    whole: nn.Module

    def __init__(self, model: nn.Module) -> None:
        # Not `super().__init__()`: whatever is set here is set there.
        object.__setattr__(self, "whole", model)
        object.__setattr__(self, "__dict__", model.__dict__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """See the model's own."""
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
        # The model itself, for those who look for its class.
        return self.whole.named_modules(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole.load_state_dict(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self.whole)


class ArtModelWrapper(nn.Module):
    """
    What ART puts around a model, but that calls a model as a whole which is more than its children.

    :param model: Module from inputs to logits.

    Example:
    >>> from art_sensreg.art_bridge.whole_model import ArtModelWrapper
    >>> wrapper = ArtModelWrapper(nn.Sequential(nn.ReLU(), nn.Tanh()))
    >>> len(wrapper(torch.zeros(1))), wrapper.get_layers
    (2, ['0', '1'])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, x: torch.Tensor) -> list[Any]:
        """
        Outputs of the layers as ART has them.

        :param x: Inputs, `(n, ...)`.
        :return: The output of each child of an `nn.Sequential`; of other models, and where no gradient is recorded, the
            logits alone: to keep what each child returned costs a convolutional network twice its time.
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
    """
    See to it that a classifier of ART's own calls its model as a whole, as training does; a warning says so.

    :param classifier: ART classifier, changed in place.
    """
    model = whole(classifier.model)
    if model is not classifier.model and not isinstance(classifier._model, ArtModelWrapper):
        classifier._model = classifier._make_model_wrapper(model)
        logger.warning(
            "`model` of the classifier is an nn.Sequential with a `forward` or hooks of its own, which ART leaves out: "
            "it calls the children in turn. This classifier now calls the model itself."
        )


def predicting_model(classifier: PyTorchClassifier) -> nn.Module:
    """
    The model as a classifier's `predict` runs it.

    :param classifier: ART classifier.
    :return: Its model; of an `nn.Sequential` that ART takes apart the children in turn.

    Example:
    >>> from art_sensreg.art_bridge.whole_model import predicting_model
    >>> model = nn.Sequential(nn.ReLU())
    >>> handle = model.register_forward_hook(lambda module, inputs, output: output + 1)
    >>> predicting_model(PyTorchClassifier(model, None, (1,), 2))(torch.zeros(1, 1)).item()
    0.0
    """
    model: nn.Module = classifier.model
    if isinstance(classifier._model, ArtModelWrapper) or whole(model) is model:
        return model
    children = nn.Sequential(*(child for child in model._modules.values() if child is not None))
    return children.train(model.training)
