"""
One forward pass over several branches of a batch: the clean examples `x` and perturbed copies `x + s*xi`.

Stacking the branches into one batch costs less than separate passes, but some layers couple the examples of a batch or
draw random numbers of their own. Inside :func:`forward_branches` they treat the clean branch as if it were alone:

- **BatchNorm in training mode** takes its statistics, and updates its running ones, from the clean examples only;
  perturbed ones are normalised with the clean statistics. Each output is then a function of its own example at fixed
  statistics, and its sensitivity is a property of the network and not of the other examples.
- **Dropout** uses one mask for all branches: otherwise the masks' difference, divided by `s^2`, drowns the sensitivity.

Models with other randomness of their own, or whose examples influence each other in other ways, run one pass a branch,
with the same draws and from the same state (see `row_coupling`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from art_sensreg.penalties.forward.batch_norm import StatisticsGradient, batch_norms
from art_sensreg.penalties.forward.clean_branch import CleanBranchRules, UnstackableError
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.forward.recomputation import recomputed_alike, recomputed_by
from art_sensreg.penalties.forward.taps import ActivationTaps, TapPlan
from art_sensreg.utils.model_rng import random_sources, rewindable_rng_state, torch_generator

NO_PLAN = ForwardPlan()
"""How a model of which nothing is known is run: stacked, with copies of its inputs."""


@dataclass(frozen=True)
class Activations:
    """
    One layer's activations in all branches, `(examples in the branch, ...)` each, the clean one first; and the one
    tensor that they are views of, or None after separate passes.
    """

    parts: Sequence[torch.Tensor]
    whole: torch.Tensor | None = None


@dataclass(frozen=True)
class Branches:
    """
    The result of a forward pass over several branches: inputs `(examples, ...)` and logits `(examples, C)` of each, and
    for each layer selection the activations of its layers. `gradient` says whether gradients flow through BatchNorm's
    statistics when the outputs are differentiated; `refused`, why the branches could not be stacked, if the pass has
    shown that.
    """

    inputs: Sequence[torch.Tensor]
    logits: Sequence[torch.Tensor]
    layers: Sequence[Sequence[Activations]]
    gradient: StatisticsGradient
    refused: str = ""


_Outputs = tuple[torch.Tensor, list[list[torch.Tensor]]]


def forward_branches(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    taps: Sequence[TapPlan] = (),
    plan: ForwardPlan = NO_PLAN,
    input_gradient: bool = False,
    follow: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None,
) -> Branches:
    """
    Run the model on all branches and read the activations that `taps` chooses of each. The first branch is the clean
    one, `(n, ...)`; the `m <= n` examples of each other one belong to the first `m` of it.

    Where a stacked pass shows that its branches cannot be stacked, they run one after another, and `refused` says why.
    `input_gradient` if the outputs will be differentiated with respect to the inputs at fixed statistics. `follow`
    makes the input of one more branch of the logits of those before: then all run one after another. RuntimeError if
    the model overwrites a tapped activation that it left alone in the trial run.
    """
    if len(inputs) == 1 and plan.updates_state and not input_gradient and follow is None:
        return _cut(inputs, _forward(model, inputs[0], taps, plan), StatisticsGradient())
    moved: Counter[int] | None = None
    refused = ""
    if plan.stacked and follow is None:
        rules = CleanBranchRules([len(x) for x in inputs], plan.updates_state, input_gradient)
        before = plan.moved.values()
        untouched = nullcontext() if plan.updates_state else plan.moved.preserved()
        try:
            with _preserve_counters(model, plan.updates_state), untouched:
                return _cut(inputs, _forward(model, torch.cat(list(inputs)), taps, plan, rules), rules.gradient)
        except UnstackableError as error:
            moved = _undone(model, rules, inputs[0].device)
            plan.moved.restore(before)
            refused = str(error)
    rules = CleanBranchRules([len(inputs[0])], plan.updates_state, input_gradient, repeated=True, moved=moved)
    with _preserve_counters(model, False):
        outputs, inputs, counts = _separate_passes(model, inputs, taps, plan, rules, follow)
    for (counter, _), count in zip(_batch_counters(model), counts if plan.updates_state else (), strict=False):
        counter.copy_(count)
    layers = [
        [Activations(parts) for parts in zip(*chosen, strict=True)]
        for chosen in zip(*(activations for _, activations in outputs), strict=True)
    ]
    return Branches(inputs, [logits for logits, _ in outputs], layers, rules.gradient, refused)


def _cut(inputs: Sequence[torch.Tensor], outputs: _Outputs, gradient: StatisticsGradient) -> Branches:
    """Cut the outputs of a stacked pass into those of its branches."""
    sizes = [len(x) for x in inputs]
    total = sum(sizes)

    def cut(value: torch.Tensor) -> Activations:
        # A layer may have several entries for each image (patches, time steps).
        return Activations(torch.split(value, [len(value) * size // total for size in sizes]), value)

    logits, activations = outputs
    return Branches(inputs, torch.split(logits, sizes), [[cut(value) for value in a] for a in activations], gradient)


def _undone(model: nn.Module, rules: CleanBranchRules, device: torch.device) -> Counter[int]:
    """Restore what a broken-off stacked pass has done; the running means that have moved correctly already."""
    if rules.random_state is not None:
        torch_generator(device).set_state(rules.random_state)
    for norm in batch_norms(model) if rules.update_statistics else ():
        counter = norm.num_batches_tracked
        if isinstance(counter, torch.Tensor):
            counter.sub_(rules.called[id(norm.running_mean)])
    return rules.moved


def _separate_passes(
    model: nn.Module,
    inputs: Sequence[torch.Tensor],
    taps: Sequence[TapPlan],
    plan: ForwardPlan,
    rules: CleanBranchRules,
    follow: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None = None,
) -> tuple[list[_Outputs], list[torch.Tensor], list[torch.Tensor]]:
    """
    One pass for each branch; all start from the same state, and BatchNorm repeats the clean pass.

    Also the inputs of all branches, and BatchNorm's counters after the clean pass: it may call a layer several times.
    """
    outputs: list[_Outputs] = []
    counts: list[torch.Tensor] = []
    known = plan.trial_size > 0
    sources = (plan.sources if plan.random else ()) if known else random_sources(model, inputs[0].device)
    rows = len(inputs[0])
    with plan.moved.replayed(plan.updates_state) as again, rewindable_rng_state(sources) as rewind:
        given = list(inputs)
        for number in range(len(inputs) + (follow is not None)):
            if follow is not None and number == len(inputs):
                given.append(follow([logits for logits, _ in outputs]))
                rewind()
                again()
            x = given[number]
            # Equal draws need equal shapes: a shorter branch is filled up, and cut again.
            whole = x if len(x) == rows else torch.cat([x, inputs[0][len(x) :].detach()])
            # Others read the same branches later: a model that works in place gets a copy.
            whole = whole if whole.requires_grad else whole.clone()
            logits, layers = _forward(model, whole, taps, plan, rules)
            if len(x) < rows:
                layers = [[value[: len(value) * len(x) // rows] for value in chosen] for chosen in layers]
            outputs.append((logits[: len(x)], layers))
            counts = counts or [count for _, count in _batch_counters(model)]
            rules.repeat()
            rewind()
            again()
    return outputs, given, counts


def _forward(
    model: nn.Module,
    x: torch.Tensor,
    taps: Sequence[TapPlan],
    plan: ForwardPlan,
    rules: CleanBranchRules | None = None,
) -> _Outputs:
    """Logits, and for each selection the activations of its layers."""
    active = [ActivationTaps(model, tap.layers, tap.clone) for tap in taps]
    twice = x.requires_grad  # the faster kernels of attention cannot be differentiated twice
    contexts: list[AbstractContextManager[Any]] = [*active, *([rules] if rules else [])]
    if twice:
        contexts.append(sdpa_kernel(SDPBackend.MATH))
    contexts.append(_recomputation(model, rules, plan, twice))
    # What is differentiated with respect to must not be overwritten by a model that works in place.
    with _all_of(contexts):
        logits = model(x.clone() if twice and plan.overwrites_input else x)
    if any(tap.overwritten for tap in active):
        raise RuntimeError("The model overwrites a tapped activation in training mode only; name other `layers`.")
    return logits, [[value for _, value in tap.read(logits)] for tap in active]


@contextmanager
def _all_of(contexts: Sequence[AbstractContextManager[Any]]) -> Iterator[None]:
    """Inside of all contexts, the first being the outermost; `torch.compile` follows `with`, and no `ExitStack`."""
    if not contexts:
        yield
        return
    with contexts[0], _all_of(contexts[1:]):
        yield


def plain_forward(model: nn.Module, x: torch.Tensor, plan: ForwardPlan) -> torch.Tensor:
    """The logits of a single batch, as without activation checkpointing if the model makes use of it."""
    if not plan.checkpointed:
        logits: torch.Tensor = model(x)
        return logits
    return _forward(model, x, (), plan)[0]


def _recomputation(
    model: nn.Module, rules: CleanBranchRules | None, plan: ForwardPlan, twice: bool = False
) -> AbstractContextManager[None]:
    """Inside, checkpointed parts of the model will be recomputed as they are computed."""
    if not plan.checkpointed or torch.compiler.is_compiling():
        return nullcontext()
    sources = plan.sources if plan.draws else ()
    return recomputed_alike(recomputed_by(model, rules, sources, plan.moved.entries, twice))


@contextmanager
def preserve_statistics(model: nn.Module, rows: int, plan: ForwardPlan) -> Iterator[None]:
    """Forward passes inside, of `rows` examples, use BatchNorm's batch statistics; no state of the model moves."""
    rules = CleanBranchRules([rows], update_statistics=False)
    with _preserve_counters(model, False), plan.moved.preserved(), rules, _recomputation(model, rules, plan):
        yield


@contextmanager
def _preserve_counters(model: nn.Module, move: bool) -> Iterator[None]:
    """BatchNorm's `num_batches_tracked` moves outside `F.batch_norm`, so it is restored by hand."""
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
