"""
Whether a penalty can change a weight at all, determined before training.

A penalty on layers before which nothing is trained (a frozen backbone, `torch.no_grad()`, `detach()`, the inside of an
`autograd.Function`) has a value, which is printed and counted in the loss, but no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.base import FusedPenalty, measure, plan_layers
from art_sensreg.penalties.forward.branches import NO_PLAN
from art_sensreg.penalties.forward.gating import Tap
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.forward.recomputation import with_graph
from art_sensreg.penalties.forward.row_coupling import survey
from art_sensreg.penalties.forward.taps import ActivationTaps, Layers, plan_taps
from art_sensreg.penalties.forward.trial_rows import trial_rows, with_enough_rows
from art_sensreg.penalties.inputs import PenaltyInputs
from art_sensreg.utils.autograd import reached
from art_sensreg.utils.model_rng import preserve_model

_SEED = 0


@dataclass(frozen=True)
class TappedLayer:
    """
    One activation that a penalty reads.

    :param name: The function, or the name of the module that was asked for.
    :param module: Name of the innermost module that was running; empty for the model itself.
    :param shape: Shape for one image.
    :param trains: Whether its gradient moves some trained weight.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    trains: bool

    @property
    def neurons(self) -> int:
        """How many numbers it has for one image."""
        return int(torch.Size(self.shape).numel())

    def __str__(self) -> str:
        return f"{self.name!r}" + (f" in {self.module!r}" if self.module not in ("", self.name) else "")


class _LocatedTaps(ActivationTaps):
    """Taps that also know the module in which each function was called."""

    def __init__(self, model: nn.Module, layers: Layers, clone: bool) -> None:
        super().__init__(model, layers, clone)
        named = list(model.named_modules())  # of a scripted part nothing can be seen
        self._modules = [(name, module) for name, module in named if not isinstance(module, torch.jit.ScriptModule)]
        self._running: list[str] = []
        self.places: dict[int, str] = {}

    def __enter__(self) -> _LocatedTaps:
        for name, module in self._modules:
            self._handles.append(module.register_forward_pre_hook(self._enter(name), prepend=True))
        super().__enter__()
        for _, module in self._modules:
            self._handles.append(module.register_forward_hook(self._leave, always_call=True))
        return self

    def _enter(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            self._running.append(name)

        return hook

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._running:
            self._running.pop()

    def _record(self, name: str, value: Any) -> Tap | None:
        tap = super()._record(name, value)
        if tap is not None:
            self.places[id(tap)] = self._running[-1] if self._running else ""
        return tap

    def located(self, logits: torch.Tensor) -> list[tuple[str, str, torch.Tensor]]:
        """Name, module and activation of each layer, as `read` gives them."""
        places = [self.places[id(tap)] for tap in self.hidden(logits)]
        found = self.read(logits)
        places += [""] * (len(found) - len(places))
        return [(name, place, value) for (name, value), place in zip(found, places, strict=True)]


def reaches_logits(model: nn.Module, x: torch.Tensor, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether a loss on the logits moves some of the trained weights. Nothing of the model changes."""
    with preserve_model(model, x.device, _SEED), torch.enable_grad(), with_graph():
        logits = model(x.clone())
    return reached([logits], parameters)[0]


def tapped_layers(
    model: nn.Module, x: torch.Tensor, layers: Layers, parameters: Sequence[nn.Parameter]
) -> list[TappedLayer]:
    """
    List the layers that a selection taps, in the order of the forward pass, and whether a penalty on each moves a
    weight.

    Example:
    >>> from art_sensreg.penalties.effect import tapped_layers
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> _ = model[0].requires_grad_(False)
    >>> for layer in tapped_layers(model, torch.rand(5, 4), "hidden", list(model[2].parameters())):
    ...     print(layer, layer.shape, layer.trains)
    'relu' in '1' (3,) False
    'tanh' in '3' (3,) True
    """
    return with_enough_rows(lambda count: _tapped(model, trial_rows(x, count), layers, parameters), 8)


def _tapped(
    model: nn.Module, rows: torch.Tensor, layers: Layers, parameters: Sequence[nn.Parameter]
) -> list[TappedLayer]:
    clone = plan_taps(model, layers, rows).clone
    found, values, _ = _activations(model, rows, layers, clone)
    leads = reached(values, parameters)
    moved = leads
    if not _all_trained(model, parameters) and any(leads):
        gradients = _activations(model, rows, layers, clone, parameters)[2]
        with _moved(parameters) as size:
            others = _activations(model, rows, layers, clone)[1]
        pairs = zip(leads, values, others, gradients, strict=True)
        moved = [lead and _changed(before, after, slope * size) for lead, before, after, slope in pairs]
    return [
        TappedLayer(name, place, tuple(value.shape[1:]), trains)
        for (name, place), value, trains in zip(found, values, moved, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class TrainedBatch:
    """
    What a penalty is tried on.

    :param model: The model, in the mode in which it is trained. Nothing of it changes.
    :param x: Inputs, `(n, ...)`; a few will do.
    :param y: Labels, for penalties that need them.
    :param parameters: The trained weights.
    :param clip_values: Input range as two broadcastable tensors, or None.
    :param plan: How the model is run; None: that is found out first.
    """

    model: nn.Module
    x: torch.Tensor
    y: torch.Tensor | None = None
    parameters: Sequence[nn.Parameter]
    clip_values: ClipValues | None = None
    plan: ForwardPlan | None = None


def penalty_effect(penalty: Any, batch: TrainedBatch) -> bool:
    """
    Whether a penalty can move a weight; one that would share the noise of another gets its own.

    It can if some gradient, here or at weights nearby, is not zero, and the value depends on the weights (of a penalty
    on layers: see :func:`tapped_layers`).
    """
    if batch.plan is None:
        batch = replace(batch, plan=survey(batch.model, batch.x))
    cheap, parameters = _cheap(penalty), batch.parameters
    value, gradient, connected = _measured(cheap, batch)
    if not connected or (gradient != 0 and _all_trained(batch.model, parameters)):
        return connected
    with _moved(parameters) as size:
        other, there, _ = _measured(cheap, batch)
    # With several layers the value may come from a fixed one: each is tried alone elsewhere. A value that stays the
    # same, but has a gradient, is that of a straight-through estimator.
    one = getattr(penalty, "tapped_layers", None) is None
    same = one and abs(other - value) <= 1e-4 * abs(value) and gradient * size <= 1e-3 * abs(value)
    return (gradient != 0 or there != 0) and not same


def _cheap(penalty: Any) -> Any:
    """A penalty that moves a weight if the given one does, with fewer passes, and by itself."""
    if not isinstance(penalty, FusedPenalty):
        return penalty
    changes: dict[str, Any] = {"sigma": 0.1} if penalty.shares_noise else {}
    changes.update({name: 2 for name in ("max_iter", "probes") if getattr(penalty, name, 0) > 2})
    return replace(penalty, **changes)


def _measured(penalty: Any, batch: TrainedBatch) -> tuple[float, float, bool]:
    """Value, norm of the gradient, and whether there is a way from one to the other; always with the same draws."""
    model, x, plan = batch.model, batch.x, batch.plan or NO_PLAN
    with preserve_model(model, x.device, _SEED), torch.enable_grad(), with_graph():
        if isinstance(penalty, FusedPenalty):
            named = {penalty.name: penalty}
            inputs = PenaltyInputs(x=x, clip_values=batch.clip_values)
            plan = replace(plan, taps=plan_layers(model, x, named), updates_state=False)
            value = measure(model, named, inputs, plan).values[penalty.name]
        else:
            value = penalty(model, x.clone(), batch.y)
        if not value.requires_grad:
            return float(value), 0.0, False
        gradients = torch.autograd.grad(value, list(batch.parameters), allow_unused=True)
    there = [gradient for gradient in gradients if gradient is not None]
    norm = float(torch.stack([g.detach().float().norm() for g in there]).norm()) if there else 0.0
    return float(value.detach()), norm, bool(there)


def _activations(
    model: nn.Module, rows: torch.Tensor, layers: Layers, clone: bool, parameters: Sequence[nn.Parameter] = ()
) -> tuple[list[tuple[str, str]], list[torch.Tensor], list[float]]:
    """Names and modules of the layers, their values, and, if parameters are given, the size of their gradients."""
    with preserve_model(model, rows.device, _SEED), torch.enable_grad(), with_graph():
        with _LocatedTaps(model, layers, clone) as taps:
            logits = model(rows.clone())
        found = taps.located(logits)
        values = [value for *_, value in found]
        gradients = [_gradient(value[1:] - value[:1], parameters) for value in values] if parameters else []
    return [(name, place) for name, place, _ in found], values, gradients


def _gradient(differences: torch.Tensor, parameters: Sequence[nn.Parameter]) -> float:
    """Norm of the gradient of their mean square, relative to it."""
    value = differences.float().pow(2).mean()
    if not value.requires_grad or value == 0:
        return 0.0
    gradients = torch.autograd.grad(value, list(parameters), allow_unused=True, retain_graph=True)
    squares = [gradient.float().pow(2).sum() for gradient in gradients if gradient is not None]
    return float(torch.stack(squares).sum().sqrt() / value.detach()) if squares else 0.0


def _all_trained(model: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    held = {id(parameter) for parameter in parameters}
    return all(id(parameter) in held for parameter in model.parameters())


@contextmanager
def _moved(parameters: Sequence[nn.Parameter]) -> Iterator[float]:
    """
    Inside, the parameters are slightly changed: a gradient that is zero there too is no accident of the initial
    values.

    Yields how far off they are.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    generator = torch.Generator().manual_seed(_SEED)
    try:
        with torch.no_grad():
            for parameter in parameters:
                if parameter.is_floating_point():
                    noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                    parameter.add_(noise * (0.1 * parameter.abs().mean() + 0.01))
        yield math.sqrt(
            sum(float((p.detach() - v).float().pow(2).sum()) for p, v in zip(parameters, kept, strict=True))
        )
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def _changed(before: torch.Tensor, after: torch.Tensor, slope: float) -> bool:
    """Whether the differences between examples, all that a penalty sees of a layer, have changed or would."""
    before, after = before.detach().float(), after.detach().float()
    one, two = before[1:] - before[:1], after[1:] - after[:1]
    rounding = 1e-6 * float(torch.maximum(before.abs().max(), after.abs().max()))
    size = float(one.abs().max())
    if size <= 100 * rounding or slope > 1e-3:
        return True  # too small to tell, as of dead units; or a straight-through estimator
    return float((two - one).abs().max()) > 1e-4 * size + rounding
