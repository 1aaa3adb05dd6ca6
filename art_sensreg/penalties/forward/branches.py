"""
One forward pass over several branches of a batch: the clean rows `x` and noisy copies `x + s*xi`.

Stacking the branches into one batch costs less than separate passes, but some layers couple the rows of a batch or draw
their own randomness. Inside :func:`forward_branches` they treat the clean branch as if it were alone:

- **BatchNorm in training mode** takes its statistics, and updates its running ones, from the clean rows only; noisy
  rows are normalised with the clean statistics. Each row's output is then a function of that row at fixed statistics,
  and its sensitivity is a property of the network and not of the other rows.
- **Dropout** uses one mask for all branches: otherwise the masks' difference, divided by `s^2`, drowns the sensitivity.

Models with other randomness of their own, or whose rows influence each other in other ways, run one pass a branch, with
the same draws and from the same state (see `row_coupling`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from art_sensreg.penalties.forward.batch_norm import batch_norms, couples_rows
from art_sensreg.penalties.forward.clean_branch import CleanBranchRules, UnstackableError
from art_sensreg.penalties.forward.plan import Traits, warn_of
from art_sensreg.penalties.forward.recomputation import recomputed_alike, recomputed_by
from art_sensreg.penalties.forward.row_coupling import survey
from art_sensreg.penalties.forward.taps import ActivationTaps, Layers, TapPlan
from art_sensreg.utils.model_rng import preserve_model, random_sources, same_draws, torch_generator


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


def treats_rows_alone(model: nn.Module, x: torch.Tensor, traits: Traits | None = None) -> bool:
    """
    Tell whether a batch may be computed in parts, in the model's present mode.

    :param model: Any `nn.Module`.
    :param x: Some inputs, `(n, ...)`.
    :param traits: What is known of the model, if anything is.
    :return: True if a row's output is the same whichever rows are with it, none of it random, and no state moves.

    Example:
    >>> from art_sensreg.penalties.forward.branches import treats_rows_alone
    >>> treats_rows_alone(nn.Linear(3, 2), torch.rand(2, 3)), treats_rows_alone(nn.BatchNorm1d(3), torch.rand(2, 3))
    (True, False)
    """
    rows = x[:2].detach()
    if len(rows) < 2 or couples_rows(model):
        return False
    traits = survey(model, x) if traits is None else traits
    if traits.random or traits.coupled or traits.moved or (traits.reason and not traits.stacked):
        return False
    with torch.no_grad(), preserve_model(model, x.device, seed=0, weights=True):
        whole = model(rows.clone())
        parts = torch.cat([model(row.clone()) for row in rows.split(1)])
    return whole.shape == parts.shape and torch.allclose(whole, parts, rtol=1e-3, atol=1e-5)


def forward_branches(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    selections: Sequence[tuple[Layers, TapPlan]] = (),
    update_statistics: bool = True,
    stacked: bool = True,
    per_row: bool = False,
    copy: bool = True,
    traits: Traits | None = None,
) -> Branches:
    """
    Run the model on all branches and read the chosen activations of each.

    :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
    :param inputs: The branches. The first is the clean one, `(n, ...)`; the rows of the others, `(m, ...)` with `m` at
        most `n`, belong to its first `m` rows.
    :param selections: Layer selections, each with its plan (see `taps.plan_taps`).
    :param update_statistics: Whether BatchNorm's running statistics, and other state that is known to move, may move.
        False when a penalty is only looked at.
    :param stacked: Whether the branches form one batch. False runs one pass for each, all of `n` rows, with the same
        random draws: the same arithmetic, a little slower.
    :param per_row: Whether the outputs will be differentiated by the inputs inside of `batch_norm.fixed_statistics`.
    :param copy: Whether the model must not be given inputs that are differentiated by, but a copy: it works in place.
    :param traits: What is known of the model (see `row_coupling.survey`). Where a stacked pass shows that branches
        cannot be stacked, they run one after another, now and from then on.
    :return: Inputs, logits and activations of all branches.
    :raises RuntimeError: If the model overwrites a tapped activation that it left alone in the trial run.

    Example:
    >>> from art_sensreg.penalties.forward.branches import forward_branches
    >>> passed = forward_branches(nn.Linear(3, 2), [torch.zeros(4, 3), torch.ones(2, 3)])
    >>> [tuple(logits.shape) for logits in passed.logits]
    [(4, 2), (2, 2)]
    """
    traits = Traits() if traits is None else traits
    sizes = [len(x) for x in inputs]
    if len(inputs) == 1 and update_statistics and not per_row:
        return _branches(inputs, sizes, *_forward(model, inputs[0], selections, copy=copy, traits=traits))
    moved: Counter[int] | None = None
    if stacked:
        rules = CleanBranchRules(sizes, update_statistics, per_row)
        before = traits.moved.values()
        try:
            with (
                _counters_kept(model, update_statistics),
                traits.moved.kept() if not update_statistics else nullcontext(),
            ):
                return _branches(
                    inputs, sizes, *_forward(model, torch.cat(list(inputs)), selections, rules, traits=traits)
                )
        except UnstackableError as error:
            moved = _undone(model, rules, inputs[0].device, update_statistics)
            traits.moved.put_back(before)
            traits.stacked, traits.reason = False, str(error)
            warn_of(traits)
    rules = CleanBranchRules(sizes[:1], update_statistics, per_row, repeated=True, moved=moved)
    with _counters_kept(model, False):
        outputs, counts = _separate_passes(model, inputs, selections, rules, traits)
    for (counter, _), count in zip(_batch_counters(model), counts if update_statistics else (), strict=False):
        counter.copy_(count)
    layers = [
        [Activations(parts) for parts in zip(*chosen, strict=True)]
        for chosen in zip(*(activations for _, activations in outputs), strict=True)
    ]
    return Branches(inputs, [logits for logits, _ in outputs], layers)


def _undone(model: nn.Module, rules: CleanBranchRules, device: torch.device, update_statistics: bool) -> Counter[int]:
    """Take back what a stacked pass that was broken off has done; the running means that have moved rightly already."""
    if rules.random_state is not None:
        torch_generator(device).set_state(rules.random_state)
    for norm in batch_norms(model) if update_statistics else []:
        counter = norm.num_batches_tracked
        if isinstance(counter, torch.Tensor):
            counter.sub_(rules.called[id(norm.running_mean)])
    return rules.moved


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
    traits: Traits,
) -> tuple[list[tuple[torch.Tensor, list[list[torch.Tensor]]]], list[torch.Tensor]]:
    """
    One pass for each branch; all start from the same state, and BatchNorm repeats the clean pass.

    Also BatchNorm's counters after the clean pass: it may call a layer several times.
    """
    outputs = []
    counts: list[torch.Tensor] = []
    sources = traits.sources or random_sources(model, inputs[0].device)
    rows = len(inputs[0])
    with traits.moved.replayed(rules.update_statistics) as again, same_draws(sources) as rewind:
        for x in inputs:
            # Equal draws need equal shapes: a shorter branch is filled up, and cut again.
            whole = x if len(x) == rows else torch.cat([x, inputs[0][len(x) :].detach()])
            # Others read the same branches later: a model that works in place gets a copy.
            whole = whole if whole.requires_grad else whole.clone()
            logits, layers = _forward(model, whole, selections, rules, traits=traits)
            if len(x) < rows:
                layers = [[value[: len(value) * len(x) // rows] for value in chosen] for chosen in layers]
            outputs.append((logits[: len(x)], layers))
            counts = counts or [count for _, count in _batch_counters(model)]
            rules.repeat()
            rewind()
            again()
    return outputs, counts


def _forward(
    model: nn.Module,
    x: torch.Tensor,
    selections: Sequence[tuple[Layers, TapPlan]],
    rules: CleanBranchRules | None = None,
    copy: bool = True,
    traits: Traits | None = None,
) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """Logits, and for each selection the activations of its layers."""
    taps = [ActivationTaps(model, layers, plan.clone) for layers, plan in selections]
    twice = x.requires_grad  # the faster kernels of attention cannot be differentiated twice
    with ExitStack() as stack:
        for context in [*taps, *([rules] if rules else [])]:
            stack.enter_context(context)
        if twice:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_recomputation(model, rules, traits or Traits(), twice))
        # What is differentiated by must not be overwritten by a model that works in place.
        logits = model(x.clone() if copy and x.requires_grad else x)
    if any(tap.overwritten for tap in taps):
        raise RuntimeError("The model overwrites a tapped activation in training mode only; name other `layers`.")
    return logits, [[value for _, value in tap.read(logits)] for tap in taps]


def plain_forward(model: nn.Module, x: torch.Tensor, traits: Traits) -> torch.Tensor:
    """
    The logits of a single batch, as without activation checkpointing if the model makes use of it.

    :param model: The model.
    :param x: Inputs, `(n, ...)`.
    :param traits: What is known of the model.
    :return: `(n, C)`.
    """
    if not traits.checkpointed:
        logits: torch.Tensor = model(x)
        return logits
    return _forward(model, x, (), copy=False, traits=traits)[0]


def _recomputation(
    model: nn.Module, rules: CleanBranchRules | None, traits: Traits, twice: bool = False
) -> AbstractContextManager[None]:
    """Inside, checkpointed parts of the model will be recomputed as they are computed."""
    if not traits.checkpointed or torch.compiler.is_compiling():
        return nullcontext()
    sources = traits.sources if traits.draws else []
    return recomputed_alike(recomputed_by(model, rules, sources, traits.moved.entries, twice))


def branches_agree(model: nn.Module, x: torch.Tensor) -> bool:
    """
    Tell whether branches may be stacked into one batch in the model's present mode.

    :param model: The model.
    :param x: Some inputs, `(n, ...)`.
    :return: True if stacking is safe; see `row_coupling.survey`.

    Example:
    >>> from art_sensreg.penalties.forward.branches import branches_agree
    >>> branches_agree(nn.Sequential(nn.Linear(3, 2), nn.Dropout()), torch.rand(4, 3))
    True
    """
    return survey(model, x).stacked


@contextmanager
def statistics_untouched(model: nn.Module, rows: int, traits: Traits | None = None) -> Iterator[None]:
    """
    Forward passes inside normalise with the statistics of their batch, and do not move BatchNorm's running ones.

    :param model: The model.
    :param rows: Rows of the batch.
    :param traits: What is known of the model: the rest of its state stays too.
    """
    traits = Traits() if traits is None else traits
    rules = CleanBranchRules([rows], update_statistics=False)
    with _counters_kept(model, False), traits.moved.kept(), rules, _recomputation(model, rules, traits):
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
