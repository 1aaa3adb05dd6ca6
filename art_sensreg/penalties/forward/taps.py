"""
Activation taps: read the activations `a_l(x)` of a model's layers during a forward pass.

Hidden layers are found by watching the *calls* of the non-linearities (a `TorchFunctionMode`), not by walking modules:
`nn.ReLU` and `F.relu`, nested, reused and functional-style networks are all alike. Named layers and layer kinds
use forward hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from art_sensreg.penalties.forward.gating import Gating, Tap
from art_sensreg.penalties.forward.nonlinearities import gate_name, watched_name
from art_sensreg.utils.arrays import shape_or_type
from art_sensreg.utils.model_rng import preserve_model
from art_sensreg.utils.modes import eval_mode

Layers = str | Sequence[str | type[nn.Module]]
KEYWORDS = ("hidden", "pre_activation", "hidden+logits", "logits")


class ActivationTaps(TorchFunctionMode):
    """
    Context manager that records activations of `model` while a forward pass runs inside it.

    :param model: Any `nn.Module`.
    :param layers: `hidden` (outputs of every non-linearity, except the model's own output; of a gate its product with
        the signal, see `gating`), `pre_activation` (inputs of the functions called), `logits`, `hidden+logits`, or a
        list of module names (`"features.0"`), module classes (`nn.Conv2d`) and `"logits"`. A module that runs twice is
        two layers.
    :param clone: Copy what is read, for models whose in-place operations overwrite it afterwards.
    :raises ValueError: If a name or class matches no module of the model.

    Example:
    >>> from art_sensreg.penalties.forward.taps import ActivationTaps
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with ActivationTaps(model, "hidden+logits") as taps:
    ...     logits = model(torch.zeros(5, 4))
    >>> [(name, tuple(value.shape)) for name, value in taps.read(logits)]
    [('relu', (5, 3)), ('logits', (5, 2))]
    """

    def __init__(self, model: nn.Module, layers: Layers = "hidden", clone: bool = False) -> None:
        super().__init__()
        self.layers = layers
        self.clone = clone
        self._taps: list[Tap] = []
        self._uncopied: list[Tap] = []
        self._handles: list[RemovableHandle] = []
        self._named = [] if isinstance(layers, str) else _select_modules(model, layers)
        self._watch_before = layers == "pre_activation"
        self._watch_after = layers in ("hidden", "hidden+logits")
        self._with_logits = layers in ("logits", "hidden+logits") or (
            not isinstance(layers, str) and "logits" in layers
        )

    def __enter__(self) -> ActivationTaps:
        self._gating = Gating(self._taps, self._record)
        for name, module in self._named:
            self._handles.append(module.register_forward_hook(self._hook(name)))
        super().__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._gating.clear()
        del self._gating  # it refers back, and the activations would live until Python looks for such circles
        for tap in self._uncopied:
            self._copy(tap)
        self._uncopied.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._uncopied:
            self._copy_before_use(args)
        name = watched_name(func, args, kwargs) if self._watch_before or self._watch_after else None
        if name is not None and self._watch_before:
            self._record(name, args[0] if args else kwargs["input"])
        output = func(*args, **kwargs)
        if self._watch_after:
            if name is not None:
                self._gating.opened(name, self._record(name, output), (*args, *kwargs.values()), output)
            elif (gate := gate_name(func, args, kwargs)) is not None:
                self._gating.opened(gate, None, (*args, *kwargs.values()), output)
            else:
                self._gating.called(func, args, kwargs, output)
        return output

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self._record(name, output[0] if isinstance(output, (tuple, list)) else output)

        return hook

    def _record(self, name: str, value: Any) -> Tap | None:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return None
        # A compiled model knows no versions; it was tried out before it was compiled.
        version = None if torch.compiler.is_compiling() else value._version
        tap = Tap(name, value, version, value)
        self._taps.append(tap)
        if self.clone and torch.is_grad_enabled():
            self._copy(tap)
        elif self.clone:
            # What an `autograd.Function` returns gets its graph after its `forward`: a copy made now would have none.
            self._uncopied.append(tap)
        return tap

    def _copy(self, tap: Tap) -> None:
        tap.value = tap.original.clone()
        tap.version = None if torch.compiler.is_compiling() else tap.value._version

    def _copy_before_use(self, args: Sequence[Any]) -> None:
        for tap in [tap for tap in self._uncopied if any(tap.original is value for value in args)]:
            self._copy(tap)
            self._uncopied.remove(tap)

    @property
    def overwritten(self) -> bool:
        """Whether an in-place operation has changed an activation after it was read."""
        return any(tap.version is not None and tap.value._version != tap.version for tap in self._taps)

    def read(self, logits: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """
        Return what was recorded, in the order of the forward pass.

        :param logits: The model's output; the last non-linearity of a model that ends in one is not "hidden".
        :return: Pairs of a layer name and its activations of shape `(n, ...)`.
        """
        found = [(tap.name, tap.value) for tap in self.hidden(logits)]
        return [*found, ("logits", logits)] if self._with_logits else found

    def hidden(self, logits: torch.Tensor) -> list[Tap]:
        """What was recorded, without the model's own output."""
        return [tap for tap in self._taps if not (self._watch_after and tap.original is logits)]


@dataclass(frozen=True)
class TapPlan:
    """
    What a trial run has shown of a layer selection.

    `names` of the tapped layers; whether their activations must be copied (`clone`); how many activations they have
    together for one image (`width`); and the selection itself.
    """

    names: tuple[str, ...]
    clone: bool
    width: int = field(default=0, repr=False, compare=False)
    layers: Layers = field(default="hidden", repr=False, compare=False)


@contextmanager
def trial(model: nn.Module, like: torch.Tensor) -> Iterator[None]:
    """
    Run a model without leaving a trace: in evaluation mode, without gradients, with a fixed seed.

    Modes, random states, weights, buffers and attributes are restored.

    :param model: Any `nn.Module`.
    :param like: Tensor on the model's device.
    """
    with preserve_model(model, like.device, seed=0, weights=True), eval_mode(model), torch.no_grad():
        yield


def plan_taps(model: nn.Module, layers: Layers, x: torch.Tensor) -> TapPlan:
    """
    Run the model once on two examples, in a :func:`trial`, and see which layers `layers` selects: so a wrong name is an
    error before any weight moves. ValueError if a name is unknown, nothing can be tapped, or the first dimension of a
    layer is not the batch.
    """
    check_layers(layers)
    rows = x[:2].detach().clone()  # the model may work in place
    with trial(model, rows), ActivationTaps(model, layers) as taps:
        logits = model(rows)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        came = shape_or_type(logits)
        raise ValueError(f"`model` returns {came}; expected logits, a tensor of shape (n, number of classes).")
    found = taps.read(logits)
    if not found:
        raise ValueError(_nothing_to_tap(model, layers))
    names = tuple(name for name, _ in found)
    for layer in () if isinstance(layers, str) else layers:
        if isinstance(layer, str) and layer not in names:
            raise ValueError(
                f"`layers` asks for {layer!r}, which does not run in a forward pass of the model, or returns no tensor "
                "of floats, alone or as the first of a tuple."
            )
    for name, value in found:
        if value.shape[:1] != rows.shape[:1]:
            raise ValueError(
                f"`layers` selects {name!r}, whose output has shape {tuple(value.shape)} for a batch of {len(rows)}; "
                "expected the batch as the first dimension. Name other layers."
            )
    return TapPlan(names, taps.overwritten, sum(value[0].numel() for _, value in found), layers)


def check_layers(layers: Layers) -> None:
    """
    Check the form of a layer selection; the model is needed to check the names themselves.

    :raises ValueError: If a string is no known keyword, or a list is empty.
    :raises TypeError: If it is neither, or a list holds something other than names and module classes.
    """
    expected = f"one of {', '.join(KEYWORDS)}, or a list of module names and module classes"
    if isinstance(layers, str):
        if layers not in KEYWORDS:
            raise ValueError(f"`layers` is {layers!r}; expected {expected} (a single name goes into a list).")
        return
    if not isinstance(layers, Sequence):
        raise TypeError(f"`layers` is {layers!r}; expected {expected}.")
    if not layers:
        raise ValueError(f"`layers` is empty; expected {expected}.")
    for layer in layers:
        if not (isinstance(layer, str) or (isinstance(layer, type) and issubclass(layer, nn.Module))):
            raise TypeError(f"`layers` holds {layer!r}; expected {expected}.")


def _select_modules(model: nn.Module, layers: Sequence[str | type[nn.Module]]) -> list[tuple[str, nn.Module]]:
    modules = dict(model.named_modules())
    selected: dict[str, nn.Module] = {}
    for layer in layers:
        if layer == "logits":
            continue
        if isinstance(layer, str):
            matches = {layer: modules[layer]} if layer in modules else {}
        else:
            matches = {name: module for name, module in modules.items() if isinstance(module, layer)}
        if not matches:
            asked = repr(layer) if isinstance(layer, str) else layer.__name__
            known = ", ".join(name for name in modules if name) or "none (the model has no submodules)"
            raise ValueError(f"`layers` asks for {asked}, which the model does not have; its modules: {known}.")
        scripted = next((name for name, module in matches.items() if isinstance(module, torch.jit.ScriptModule)), None)
        if scripted is not None:
            raise ValueError(
                f"`layers` selects {scripted!r}, a TorchScript module, whose activations cannot be read; expected "
                "other layers, or the module before it was scripted."
            )
        selected.update(matches)
    return list(selected.items())


def _nothing_to_tap(model: nn.Module, layers: Layers) -> str:
    known = ", ".join(repr(name) for name, _ in model.named_modules() if name)
    choice = f"name layers, for example from: {known}" if known else "the model has no submodules to name either"
    return (
        f"`layers={layers!r}` finds nothing to tap in {type(model).__name__}: no known non-linearity (ReLU, GELU, "
        f"SiLU, tanh, ...) ran before its output. Use layers='logits', or {choice}."
    )
