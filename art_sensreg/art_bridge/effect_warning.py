"""The warning, before training, of penalties that can move no weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from art_sensreg.penalties.effect import TappedLayer, TrainedBatch, penalty_effect, reaches_logits, tapped_layers
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.forward.trial_rows import trial_rows
from art_sensreg.penalty_lists import Penalty, active_penalties, unique_names
from art_sensreg.utils import warn_caller

_WHY = (
    "They have a value, which is printed and counted in the loss, and a gradient of zero: what they measure stands "
    "before all that is trained, in a part that is frozen, detached or under torch.no_grad(), or inside of an "
    "autograd.Function"
)


def warn_without_effect(
    model: nn.Module,
    x: torch.Tensor,
    penalties: Sequence[Penalty],
    parameters: Sequence[nn.Parameter],
    clip_values: ClipValues | None = None,
    plan: ForwardPlan | None = None,
) -> None:
    """
    Warn, once for all of them, of penalties and tapped layers that can move no trained weight.

    Users' own penalties are not called outside of training. A ValueError if neither the logits nor any penalty depends
    on a trained weight.
    """
    rows = trial_rows(x, 8 if plan is None else max(8, plan.trial_size))
    labels = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    batch = TrainedBatch(model=model, x=rows, y=labels, parameters=parameters, clip_values=clip_values, plan=plan)
    found, without = [], []
    active = active_penalties(penalties)
    for name, penalty in zip(unique_names(active), active, strict=True):
        if not is_own(penalty):
            found.append(name)
            continue
        layers = layers_of(penalty, model, rows, parameters)
        dead = [f"layer {number}, {layer}" for number, layer in enumerate(layers, 1) if not layer.trains]
        if (dead and len(dead) == len(layers)) or not penalty_effect(penalty, batch):
            without.append(f"`{name}` moves none" + (f" (all layers: {'; '.join(dead)})" if dead else ""))
            continue
        found.append(name)
        if dead:
            without.append(f"`{name}` on {len(dead)} of its {len(layers)} layers ({'; '.join(dead)})")
    if not found and not reaches_logits(model, rows, parameters):
        raise ValueError(
            "`model` returns logits that depend on no parameter that requires a gradient and is held by the optimizer; "
            "expected something to train: is the whole model frozen, detached, or under torch.no_grad()?"
        )
    if without:
        warn_caller(
            f"Penalties without effect on any weight that is trained: {', '.join(without)}. {_WHY}. Name other "
            "`layers`, or train what stands before them."
        )


def is_own(penalty: Any) -> bool:
    """Whether a penalty is the package's or a subclass of one: it may be measured outside of training."""
    return any(kind.__module__.startswith("art_sensreg.") for kind in type(penalty).__mro__)


def layers_of(
    penalty: Any, model: nn.Module, x: torch.Tensor, parameters: Sequence[nn.Parameter]
) -> tuple[TappedLayer, ...]:
    """The layers that a penalty taps; one of weight 0 trains nothing."""
    selection = getattr(penalty, "tapped_layers", None)
    if selection is None:
        return ()
    layers = tapped_layers(model, x, selection, parameters)
    weights = getattr(penalty, "layer_weights", None) or [1.0] * len(layers)
    return tuple(
        layer if weight else replace(layer, trains=False) for layer, weight in zip(layers, weights, strict=True)
    )
