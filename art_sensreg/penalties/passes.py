"""
One forward pass over several branches of a batch: the clean rows `x` and noisy copies `x + s*xi`.

Stacking the branches into one batch costs less than separate passes, but some layers couple the rows of a batch or draw
their own randomness. Inside :func:`forward_branches` they treat the clean branch as if it were alone:

- **BatchNorm in training mode** takes its statistics, and updates its running ones, from the clean rows only; noisy
  rows are normalised with the clean statistics. Each row's output is then a function of that row at fixed statistics,
  and its sensitivity is a property of the network and not of the other rows.
- **Dropout** uses one mask for all branches: otherwise the masks' difference, divided by `s^2`, drowns the sensitivity.
  Models with other randomness of their own run one pass a branch with the same draws (:func:`branches_agree`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from art_sensreg.penalties.clean_branch import CleanBranchRules
from art_sensreg.penalties.random_states import random_sources, random_state_kept, same_draws
from art_sensreg.penalties.taps import ActivationTaps, Layers, TapPlan, trial


@dataclass
class Activations:
    """
    One layer's activations in all branches.

    :param parts: One tensor for each branch, `(rows of the branch, ...)`; the first is the clean one.
    :param whole: All of them as the one tensor that they are views of, or None after separate passes.
    """

    parts: Sequence[torch.Tensor]
    whole: torch.Tensor | None = None


@dataclass
class Branches:
    """
    What a pass over several branches gave.

    :param inputs: The branches, `(rows, ...)` each.
    :param logits: Theirs, `(rows, C)` each.
    :param layers: Per layer selection, the activations of its layers.
    """

    inputs: Sequence[torch.Tensor]
    logits: Sequence[torch.Tensor]
    layers: list[list[Activations]]


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """
    Find the BatchNorm layers.

    :param model: Any `nn.Module`.
    :return: The layers.
    """
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def couples_rows(model: nn.Module, norms: Sequence[nn.Module] | None = None) -> bool:
    """
    Tell whether a BatchNorm layer uses the statistics of the batch as the model stands now.

    :param model: Any `nn.Module`.
    :param norms: Its BatchNorm layers, if they are known.
    :return: True if some BatchNorm is in training mode or keeps no running statistics.

    Example:
    >>> from art_sensreg.penalties.passes import couples_rows
    >>> couples_rows(nn.BatchNorm1d(2)), couples_rows(nn.BatchNorm1d(2).eval())
    (True, False)
    """
    return any(norm.training or norm.running_mean is None for norm in (batch_norms(model) if norms is None else norms))


def treats_rows_alone(model: nn.Module, x: torch.Tensor) -> bool:
    """
    Tell whether a batch may be computed in parts, in the model's present mode.

    :param model: Any `nn.Module`.
    :param x: Some inputs, `(n, ...)`.
    :return: True if a row's output is the same whichever rows are with it, and none of it random.

    Example:
    >>> from art_sensreg.penalties.passes import treats_rows_alone
    >>> treats_rows_alone(nn.Linear(3, 2), torch.rand(2, 3)), treats_rows_alone(nn.BatchNorm1d(3), torch.rand(2, 3))
    (True, False)
    """
    rows = x[:2].detach()
    if len(rows) < 2 or couples_rows(model):
        return False
    with torch.no_grad(), random_state_kept(x.device, module=model):
        whole = model(rows.clone())
        parts = torch.cat([model(row.clone()) for row in rows.split(1)])
    return whole.shape == parts.shape and torch.allclose(whole, parts, rtol=1e-3, atol=1e-5)


def works_in_place(model: nn.Module, x: torch.Tensor) -> bool:
    """
    Tell whether a model overwrites its input.

    :param model: Any `nn.Module`.
    :param x: Some inputs, `(n, ...)`; they are left alone.
    :return: True if it does.

    Example:
    >>> from art_sensreg.penalties.passes import works_in_place
    >>> works_in_place(nn.ReLU(), torch.rand(2, 3)), works_in_place(nn.ReLU(inplace=True), torch.rand(2, 3))
    (False, True)
    """
    rows = x[:2].detach().clone()
    before = rows._version
    with trial(model, rows):
        model(rows)
    return rows._version != before


def forward_branches(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    selections: Sequence[tuple[Layers, TapPlan]] = (),
    update_statistics: bool = True,
    stacked: bool = True,
    per_row: bool = False,
    copy: bool = True,
) -> Branches:
    """
    Run the model on all branches and read the chosen activations of each.

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
    :param inputs: The branches. The first is the clean one, `(n, ...)`; the rows of the others, `(m, ...)` with `m` at
        most `n`, belong to its first `m` rows.
    :param selections: Layer selections, each with its plan (see `taps.plan_taps`).
    :param update_statistics: Whether BatchNorm's running statistics may move. False when a penalty is only looked at.
    :param stacked: Whether the branches form one batch. False runs one pass for each, all of `n` rows, with the same
        random draws: the same arithmetic, a little slower.
    :param per_row: Whether the outputs will be differentiated by the inputs inside of `batch_norm.fixed_statistics`.
    :param copy: Whether the model must not be given inputs that are differentiated by, but a copy: it works in place.
    :return: Inputs, logits and activations of all branches.
    :raises RuntimeError: If the model overwrites a tapped activation that it left alone in the trial run.

    Example:
    >>> from art_sensreg.penalties.passes import forward_branches
    >>> passed = forward_branches(nn.Linear(3, 2), [torch.zeros(4, 3), torch.ones(2, 3)])
    >>> [tuple(logits.shape) for logits in passed.logits]
    [(4, 2), (2, 2)]
    """
    sizes = [len(x) for x in inputs]
    if len(inputs) == 1 and update_statistics and not per_row:
        return _branches(inputs, sizes, *_forward(model, inputs[0], selections, copy=copy))
    rules = CleanBranchRules(sizes if stacked else sizes[:1], update_statistics, per_row, repeated=not stacked)
    with _counters_kept(model, update_statistics and stacked):
        if stacked:
            return _branches(inputs, sizes, *_forward(model, torch.cat(list(inputs)), selections, rules))
        outputs = _separate_passes(model, inputs, selections, rules)
    if update_statistics:
        for counter, _ in _batch_counters(model):
            counter.add_(1)
    layers = [
        [Activations(parts) for parts in zip(*chosen, strict=True)]
        for chosen in zip(*(activations for _, activations in outputs), strict=True)
    ]
    return Branches(inputs, [logits for logits, _ in outputs], layers)


def _branches(
    inputs: Sequence[torch.Tensor], sizes: list[int], logits: torch.Tensor, activations: list[list[torch.Tensor]]
) -> Branches:
    """Cut the outputs of a stacked pass into those of its branches."""
    total = sum(sizes)

    def cut(value: torch.Tensor) -> Activations:
        # A layer may see several rows for each image (patches, time steps).
        return Activations(torch.split(value, [len(value) * size // total for size in sizes]), value)

    return Branches(inputs, torch.split(logits, sizes), [[cut(value) for value in layers] for layers in activations])


def _separate_passes(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    selections: Sequence[tuple[Layers, TapPlan]],
    rules: CleanBranchRules,
) -> list[tuple[torch.Tensor, list[list[torch.Tensor]]]]:
    """One pass for each branch; every one starts from the same random state, and BatchNorm repeats the clean pass."""
    outputs = []
    with same_draws(random_sources(model, inputs[0].device)) as rewind:
        for x in inputs:
            # Others read the same branches later: a model that works in place gets a copy.
            outputs.append(_forward(model, x if x.requires_grad else x.clone(), selections, rules))
            rules.repeat()
            rewind()
    return outputs


def _forward(
    model: nn.Module,
    x: torch.Tensor,
    selections: Sequence[tuple[Layers, TapPlan]],
    rules: CleanBranchRules | None = None,
    copy: bool = True,
) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """Logits, and for each selection the activations of its layers."""
    taps = [ActivationTaps(model, layers, plan.clone) for layers, plan in selections]
    with ExitStack() as stack:
        for context in [*taps, *([rules] if rules else [])]:
            stack.enter_context(context)
        if x.requires_grad:  # the faster kernels of attention cannot be differentiated twice
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        # What is differentiated by must not be overwritten by a model that works in place.
        logits = model(x.clone() if copy and x.requires_grad else x)
    if any(tap.overwritten for tap in taps):
        raise RuntimeError("The model overwrites a tapped activation in training mode only; name other `layers`.")
    return logits, [[value for _, value in tap.read(logits)] for tap in taps]


def branches_agree(model: nn.Module, x: torch.Tensor) -> bool:
    """
    Tell whether equal branches, stacked into one batch, give equal outputs in the model's present mode.

    They do not where the model draws randomness of its own that the rules above do not share: attention dropout,
    stochastic depth, noise layers. Its branches must then run one after the other with the same draws.

    :param model: The model.
    :param x: Some inputs, `(n, ...)`.
    :return: True if stacking is safe.

    Example:
    >>> from art_sensreg.penalties.passes import branches_agree
    >>> branches_agree(nn.Sequential(nn.Linear(3, 2), nn.Dropout()), torch.rand(4, 3))
    True
    """
    rows = x[:2].detach()
    if len(rows) < 2 and couples_rows(model):
        return True
    with torch.no_grad(), random_state_kept(x.device, module=model):
        clean, noisy = forward_branches(model, [rows, rows], update_statistics=False).logits
    return torch.allclose(clean, noisy, rtol=1e-3, atol=1e-5)


@contextmanager
def statistics_untouched(model: nn.Module, rows: int) -> Iterator[None]:
    """
    Forward passes inside normalise with the statistics of their batch, and do not move BatchNorm's running ones.

    :param model: The model.
    :param rows: Rows of the batch.
    """
    with _counters_kept(model, False), CleanBranchRules([rows], update_statistics=False):
        yield


@contextmanager
def _counters_kept(model: nn.Module, move: bool) -> Iterator[None]:
    """BatchNorm's `num_batches_tracked` moves outside of `F.batch_norm`, so it is put back by hand."""
    counters = [] if move else _batch_counters(model)
    try:
        yield
    finally:
        for counter, value in counters:
            counter.copy_(value)


def _batch_counters(model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The counters that a training pass moves, with their present values."""
    buffers = [m.num_batches_tracked for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    return [(buffer, buffer.clone()) for buffer in buffers if buffer is not None]
