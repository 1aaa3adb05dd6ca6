"""Backward pass differentiable approximation (BPDA) as a module, so that every attack differentiates through it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from art.defences.preprocessor.preprocessor import Preprocessor, PreprocessorPyTorch
from torch import nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from art_sensreg.utils import as_array, as_numbers, check_flag
from art_sensreg.utils.model_rng import preserve_rng_state

logger = logging.getLogger(__name__)

Tensors = Callable[[torch.Tensor], torch.Tensor]


class BPDA(nn.Module):
    """
    A model behind any preprocessing, with the gradient of a differentiable surrogate of the preprocessing.

    ART's default for numpy preprocessors is the identity; torch preprocessors, and preprocessing inside a model, are
    differentiated as they are, which gives zero for anything that rounds. Besides, attacks that rebuild a plain
    `PyTorchClassifier` from `estimator.model` (APGD, and so AutoAttack) ignore the gradient that a preprocessor
    declares. They cannot ignore a module around the model.

    | Paper link: https://arxiv.org/abs/1802.00420 (Athalye, Carlini and Wagner 2018, section 4.1)

    :param model: Module from preprocessed images to logits.
    :param preprocessing: An ART preprocessor (numpy or torch), a module, or a function of a batch: of tensors, or of
        numpy arrays. A random one is sampled again in every forward pass.
    :param surrogate: Differentiable function of a batch of tensors that replaces the preprocessing in the backward
        pass. None: what an ART preprocessor declares itself (`estimate_forward`, `estimate_gradient`), else the
        identity.
    :param numpy: Whether a plain function takes numpy arrays. None: determined by trial. A function that accepts both
        is given arrays unless its results for tensors are identical, because many methods differ: numpy's `std` and
        `var` divide by n, torch's by n - 1.
    :raises TypeError: If an argument has the wrong type.

    Example:
    >>> from art_sensreg.attacks import BPDA
    >>> model = BPDA(nn.Identity(), lambda x: torch.round(x * 4) / 4)
    >>> x = torch.tensor([[0.3, 0.6]], requires_grad=True)
    >>> model(x).tolist(), torch.autograd.grad(model(x).sum(), x)[0].tolist()
    ([[0.25, 0.5]], [[1.0, 1.0]])
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Any,
        surrogate: Tensors | None = None,
        numpy: bool | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` is {type(model).__name__}; expected an nn.Module from images to logits.")
        if not callable(preprocessing):
            raise TypeError(f"`preprocessing` is {type(preprocessing).__name__}; expected a function of a batch.")
        if surrogate is not None and not callable(surrogate):
            raise TypeError(f"`surrogate` is {type(surrogate).__name__}; expected a function of a batch, or None.")
        if numpy is not None:
            check_flag("numpy", numpy)
        self.model = model
        self.preprocessing = preprocessing
        self.surrogate = surrogate
        self.numpy = numpy
        self._compared: set[Any] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        Logits of the preprocessed images.

        :param x: Images, `(n, ...)`.
        :return: Logits `(n, C)`.
        :raises ValueError: If the surrogate's output has another shape than the preprocessing's, or autograd finds no
            path through it.
        """
        with torch.no_grad():
            exact = self._exact(x.detach())
        logits: torch.Tensor = self.model(self._differentiable(x, exact))
        return logits

    def _differentiable(self, x: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        operation, surrogate = self.preprocessing, self.surrogate
        if surrogate is None and _declares(operation, PreprocessorPyTorch, "estimate_forward"):
            surrogate = operation.estimate_forward
        elif surrogate is None and _declares(operation, Preprocessor, "estimate_gradient"):
            replaced: torch.Tensor = _EstimatedGradient.apply(x, exact, operation)
            return replaced
        approximate = x if surrogate is None else check_traced("surrogate", surrogate(x), x)
        if approximate.shape != exact.shape:
            name = "identity" if surrogate is None else "`surrogate`"
            raise ValueError(
                f"`preprocessing` turns images of shape {tuple(x.shape)} into {tuple(exact.shape)}, and the {name} "
                f"into {tuple(approximate.shape)}; expected the same: give a `surrogate` of that shape."
            )
        replaced = _StraightThrough.apply(approximate, exact)
        return replaced

    def _exact(self, x: torch.Tensor) -> torch.Tensor:
        operation = self.preprocessing
        if isinstance(operation, PreprocessorPyTorch):
            output = operation.forward(x.clone())[0]
        elif isinstance(operation, Preprocessor):
            output = operation(_as_array(x))[0]
        elif isinstance(operation, nn.Module):
            output = operation(x.clone())
        else:
            output = self._function(operation, x)
        return _as_tensor(output).to(x)

    def _function(self, function: Callable[[Any], Any], x: torch.Tensor) -> Any:
        key = (tuple(x.shape), x.dtype, x.device)
        if self.numpy is None and key not in self._compared:
            with temporarily_clear_interpreter_stack():  # outside torch.func, inside which no array can be made
                self._compare(function, x)
            self._compared.add(key)
        if self.numpy and _is_wrapped(x):
            raise ValueError(
                "`preprocessing` takes numpy arrays, which cannot be made inside torch.func (in vmap, for example); "
                "expected a function of tensors there."
            )
        return function(_as_array(x) if self.numpy else x.clone())

    def _compare(self, function: Callable[[Any], Any], x: torch.Tensor) -> None:
        """Find out whether a function takes tensors; again for each new shape, on which a difference may depend."""
        wrapped, batches = _is_wrapped(x), []
        if x.is_floating_point():  # the images themselves may be constant, and hide a difference
            low, high = (0.0, 1.0) if wrapped or not x.numel() else (float(end) for end in x.aminmax())
            noise = torch.from_numpy(np.random.default_rng(0).random(x.shape, dtype=np.float32))
            for values in (noise, torch.round(4 * noise) / 4):  # the second has ties, whose order is not defined
                batches.append((low + (high - low or 1.0) * values).to(x.device, x.dtype))
        batches = batches if wrapped else [x, *batches]
        for batch in batches:
            with preserve_rng_state(x.device):
                tensors = _tried(function, batch.clone())
            with preserve_rng_state(x.device):
                arrays = _tried(function, _as_array(batch))
            if not isinstance(tensors, torch.Tensor):
                self.numpy = True
            elif arrays is None:
                self.numpy = False
            elif not _same(tensors, arrays, batch):
                logger.warning(
                    "BPDA: `preprocessing` returns other values for numpy arrays than for torch tensors: its methods "
                    "differ between the two, or it draws from a generator of its own. It is given arrays; "
                    "`numpy=False` gives it tensors."
                )
                self.numpy = True
            if self.numpy is not None:
                return

    def extra_repr(self) -> str:
        name = getattr(self.preprocessing, "__name__", type(self.preprocessing).__name__)
        return f"preprocessing={name}, surrogate={'identity' if self.surrogate is None else self.surrogate}"


def check_traced(name: str, output: Any, x: torch.Tensor) -> torch.Tensor:
    """Refuse a function's output unless it is a tensor to which autograd finds a path from the images."""
    if not isinstance(output, torch.Tensor):
        raise TypeError(f"`{name}` returns {type(output).__name__}; expected a tensor.")
    if x.requires_grad and torch.is_grad_enabled() and not output.requires_grad:
        raise ValueError(
            f"`{name}` returns a tensor to which autograd finds no path from the images; expected differentiable "
            "operations of torch, without `detach`, `numpy` or `no_grad`: only the `preprocessing` of "
            "art_sensreg.attacks.BPDA may use those."
        )
    return output


def _declares(operation: Any, kind: type, method: str) -> bool:
    """Whether an ART preprocessor overrides its base class's estimate of the gradient, which is the identity."""
    own = getattr(type(operation), method, None)
    return isinstance(operation, kind) and own not in (
        getattr(Preprocessor, method, None),
        getattr(PreprocessorPyTorch, method, None),
    )


def _tried(function: Callable[[Any], Any], batch: Any) -> torch.Tensor | np.ndarray | None:
    """What a function returns for a batch; None if it does not take such a batch, or does not return numbers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = function(batch)
    except Exception:  # noqa: BLE001 - it may raise anything when it is given what it was not written for
        return None
    numbers = (isinstance(output, torch.Tensor) and not output.is_complex()) or (
        isinstance(output, np.ndarray) and output.dtype.kind in "biuf"
    )
    return output if numbers else None


def _same(tensors: torch.Tensor, arrays: torch.Tensor | np.ndarray, like: torch.Tensor) -> bool:
    """Whether both are the same numbers, bit for bit, in the type that the model is given."""
    one, other = tensors.to(like), _as_tensor(arrays).to(like)
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _is_wrapped(x: torch.Tensor) -> bool:
    """Whether a tensor belongs to a transform of torch.func, so that it cannot be converted to an array."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))


def _as_tensor(output: Any) -> torch.Tensor:
    """Convert the output of a preprocessing function, with any strides and byte order, to a tensor."""
    if isinstance(output, torch.Tensor) and not output.is_complex():
        return output
    array = as_numbers(output, "preprocessing")
    known = array.dtype.itemsize <= 8 and (array.dtype.kind != "u" or array.dtype.itemsize == 1)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=") if known else np.float64, order="C"))


def _as_array(x: torch.Tensor) -> np.ndarray:
    return as_array(x, "x").copy()  # the preprocessing may work in place


class _StraightThrough(torch.autograd.Function):
    """The second argument, with the gradient of the first; adding their detached difference would round."""

    generate_vmap_rule = True

    @staticmethod
    def forward(approximate: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        return exact.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


class _EstimatedGradient(torch.autograd.Function):
    """Preprocessed images, with the gradient that an ART preprocessor estimates itself, in numpy."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, exact: torch.Tensor, operation: Preprocessor) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.operation = operation
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        estimate = ctx.operation.estimate_gradient(_as_array(x), _as_array(gradients[0]))
        return torch.as_tensor(estimate).to(x), None, None
