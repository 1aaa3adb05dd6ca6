"""The pass whose start is kept: penalties compare activations at the start of the gradient steps and at their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from art_sensreg.adversaries.attacked_batch import AttackedBatch
from art_sensreg.adversaries.base import Adversary
from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.penalties.forward.branches import Activations, Branches, forward_branches
from art_sensreg.penalties.forward.inner_ascent import gradient_at, inner_ascent
from art_sensreg.penalties.forward.plan import ForwardPlan
from art_sensreg.penalties.inputs import Comparison, of_one_process
from art_sensreg.utils.autograd import Entry


@dataclass(frozen=True)
class StartMeasured:
    """Logits of the clean images, if they were wanted, and of the adversarial ones; these; the penalties' values."""

    logits: Sequence[torch.Tensor]
    perturbed: torch.Tensor
    values: dict[str, torch.Tensor]


def measure_from_start(
    model: nn.Module,
    adversary: Adversary,
    batch: AttackedBatch,
    penalties: Mapping[str, FusedPenalty],
    plan: ForwardPlan,
) -> StartMeasured:
    """
    Perturb a batch and measure penalties between the start of the gradient steps and their end.

    The first step's input gradient comes from the start's forward pass in training mode, whose graph is kept: gradients
    of the penalties flow through both ends. Further steps are taken in evaluation mode, as everywhere else. BatchNorm
    normalises both ends with the statistics of the first pass (the clean images', if the loss needs them), which move
    its running ones; dropout has the same masks.
    """
    ascent = adversary.ascent(batch.clip_values)
    x = batch.x.detach()
    start = adversary.draw_start(x, batch.generator) if batch.start is None else batch.start
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        leaf = ascent.project(x, x + start).detach().requires_grad_(True)
        entry = Entry.of(leaf)

        def step(logits: Sequence[torch.Tensor]) -> torch.Tensor:
            with batch.unchanged():
                loss = first_loss_fn(logits[0].detach())(logits[-1])
                gradient = gradient_at(entry, loss, retain_graph=True)
                if batch.pair is not None:
                    batch.pair.start_with(gradient)
                moved = ascent.move(x, leaf.detach(), gradient)
                if adversary.steps > 1:
                    loss_fn = adversary.get_loss_fn(model, x, batch.y, batch.base_loss)
                    with plan.moved.preserved():
                        moved = inner_ascent(model, loss_fn, x, moved, replace(ascent, max_iter=adversary.steps - 1))
            return moved.detach()

        def first_loss_fn(clean: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            """Of clean logits in the same mode: those of another one would differ without any step."""
            if type(adversary).get_loss_fn is not Adversary.get_loss_fn:
                return adversary.get_loss_fn(model, x, batch.y, batch.base_loss)
            return adversary.loss_fn_beside(clean, batch.y, batch.base_loss)

        def follow(logits: Sequence[torch.Tensor]) -> torch.Tensor:
            perturbed = batch.images(partial(step, logits))
            return perturbed if batch.pair is None else batch.pair.end_at(perturbed)

        taps = [plan.taps[name] for name in penalties if name in plan.taps]
        inputs = [x, leaf] if adversary.needs_clean else [leaf]
        passed = forward_branches(model, inputs, taps, plan, follow=follow)
        pair = _last_two(passed)
        layers = iter(pair.layers)
        size = adversary.pair_size(x)
        values = {}
        for name, penalty in penalties.items():
            tapped = next(layers) if name in plan.taps else ()
            compared = Comparison(pair, range(1, 2), size, tapped, batch.over_processes.get(name, of_one_process))
            values[name] = penalty.evaluate(compared, batch.generator)
    logits = [*passed.logits[:-2], passed.logits[-1]]
    if not wanted:
        logits, values = [z.detach() for z in logits], {name: value.detach() for name, value in values.items()}
    return StartMeasured(logits, passed.inputs[-1], values)


def _last_two(passed: Branches) -> Branches:
    layers = [[Activations(layer.parts[-2:]) for layer in chosen] for chosen in passed.layers]
    return replace(passed, inputs=passed.inputs[-2:], logits=passed.logits[-2:], layers=layers)
