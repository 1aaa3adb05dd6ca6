"""One training step: forward in the chosen precision, the check of its loss, backward, the update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from art_sensreg.adversaries.gradient_pair import GradientPair
from art_sensreg.adversaries.visits import Visit
from art_sensreg.objectives import Objective
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.penalties.forward.recomputation import with_graph
from art_sensreg.penalties.inputs import Share
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from art_sensreg.training.distributed import lost_processes_named
from art_sensreg.training.numerics.ema import WeightAverage
from art_sensreg.training.numerics.micro_batches import (
    Part,
    cache_sized,
    examples_at_once,
    micro_batches,
    weighted_by_divisor,
)
from art_sensreg.training.numerics.nonfinite import GRADIENT_COSINE, NotFiniteError, gradient_size, read_step
from art_sensreg.training.numerics.rollback import SavedBuffers
from art_sensreg.training.numerics.step_module import StepModule, Terms
from art_sensreg.training.numerics.weight_perturbation import perturbed_weights
from art_sensreg.training.optimizers import needs_closure, plain_step
from art_sensreg.training.resources import CHANNELS_LAST
from art_sensreg.training.run import RunSetup
from art_sensreg.utils.modes import eval_mode
from art_sensreg.utils.precision import full_float32

# On the CPU a batch and its noisy copies are computed in parts with about this many tapped activations: 12 MB.
_CACHED_NUMBERS = 3 * 2**20
_SMALLEST_PART = 16
# The scale of float16 is halved this many times in a row, from 2**16, before it is no longer taken for the cause.
_HALVINGS = 40


@dataclass(frozen=True)
class LocalBatch:
    """
    A process's images and labels of a step, of which the first `own` count for it, where a carried adversary's
    perturbations of them start, and whether input gradients at the start and the end of its step are `compared`.
    """

    x: torch.Tensor
    y: torch.Tensor
    own: int
    start: torch.Tensor | None = None
    compared: bool = False


@dataclass(frozen=True)
class StepDone:
    """
    The terms of the whole batch, the logits of this process's examples, the name of a term that is not finite, or None,
    what a carried adversary's perturbations have become, and the cosine of input gradients at the start and the end of
    the adversary's step, if they are compared.
    """

    terms: Terms
    logits: torch.Tensor
    culprit: str | None
    moved: torch.Tensor | None
    cosine: float | None


class Stepper:
    """
    Does training steps, and keeps what belongs to them: gradient scaler, weight average, the distributed wrapper.
    `unused` if some parameters do not take part in the loss; `reseed` puts the model's own randomness back to what it
    was when the step began.
    """

    def __init__(
        self, setup: RunSetup, objective_state: ObjectiveState, unused: bool, reseed: Callable[[], None]
    ) -> None:
        model, config, alone = setup.model, setup.config, setup.processes.count == 1
        device = next(model.parameters()).device
        self._setup, self._reseed = setup, reseed
        self.average = None if config.ema is None else WeightAverage(model, config.ema, config.ema_warmup)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self._overflows = 0
        self._only_weights = setup.objective.keeps_input and alone
        self._in_parts = device.type == "cpu" and alone and config.precision == "float32" and not config.compile
        self._differentiated = [*model.parameters(), *objective_state.parameters()]
        self._twice = needs_closure(setup.optimizer)
        self._cosine: float | None = None
        self._moved: torch.Tensor | None = None  # what a carried adversary's perturbations have become
        stores = [module._buffers for module in model.modules()] + objective_state.stores()
        self._first_pass = SavedBuffers(stores if self._twice or config.awp_gamma else [])
        step = StepModule(model, setup.objective, config.precision, None if alone else objective_state.holder())
        self._device, self._step_module = device, step
        self._module: nn.Module = step
        if config.compile:
            self._module.compile()
        if not alone:
            self._module = DistributedDataParallel(step, find_unused_parameters=unused)

    def __call__(self, batch: LocalBatch, probes: Probes, share: Share, pieces: int = 1) -> StepDone:
        """
        Do one step, in `pieces` micro-batches; unless the loss or its gradient is not finite: then no weight moves. The
        host waits for the device once, to learn whether they are.
        """
        x, y = batch.x, batch.y
        if self._setup.config.channels_last and x.ndim in CHANNELS_LAST:
            x = x.contiguous(memory_format=CHANNELS_LAST[x.ndim])
            batch = replace(batch, x=x)
        divided = micro_batches(len(x), share, pieces)
        if pieces > 1:
            divided = weighted_by_divisor(divided, self._setup.objective.base_loss, y)
        parts = [part for piece in divided for part in self._cached(*piece)]

        def evaluate() -> tuple[Terms, torch.Tensor, str | None]:
            terms, logits = self._gradients(batch, probes, parts)
            if self.scaler.is_enabled():
                self.scaler.unscale_(self._setup.optimizer)
            size = gradient_size(self._trained())
            culprit, self._cosine = read_step(terms, size)
            return ({**terms, "gradient": size} if culprit == "gradient" else terms), logits, culprit

        gamma = self._setup.config.awp_gamma * self._setup.objective.strength
        with self._setup.objective.images.of_one_step() if gamma else nullcontext():
            terms, logits, culprit = evaluate()
            cosine = self._cosine
            if culprit is None and gamma:
                culprit = self._at_worst_weights(evaluate, terms, gamma)
        # A gradient that overflows half precision is no fault: the scaler lowers its scale, and the step is left out.
        # One that overflows whatever the scale is a fault.
        overflow = culprit == "gradient" and self.scaler.is_enabled() and self._overflows < _HALVINGS
        self._overflows = self._overflows + 1 if overflow else 0
        if overflow:
            terms.pop("gradient")
        if culprit is None and self._twice:
            culprit = self._step_twice(evaluate, terms)
        elif culprit is None or overflow:
            culprit = None
            self._step(overflow)
        if culprit is not None:
            self._leave_out()
        elif self.average is not None:
            self.average.update_parameters(self._setup.model)
        return StepDone(terms, logits[: batch.own], culprit, self._moved, cosine)

    def _trained(self) -> list[torch.Tensor]:
        """What the optimizer trains; which that is, and what of it is frozen, may change from step to step."""
        return [p for group in self._setup.optimizer.param_groups for p in group["params"] if p.requires_grad]

    def _cached(self, size: int, share: Share) -> list[Part]:
        """Divide a batch, where that is possible and pays, into parts that fit the processor's cache."""
        noisy = size if share.noisy_rows is None else share.noisy_rows
        if not self._in_parts or not noisy:
            return [(size, share)]
        most = examples_at_once(self._setup.objective, _CACHED_NUMBERS)
        return [(size, share)] if most is None else cache_sized(size, share, noisy, max(most, _SMALLEST_PART))

    def _gradients(self, batch: LocalBatch, probes: Probes, parts: list[Part]) -> tuple[Terms, torch.Tensor]:
        """Forward and backward of each part in turn: but for rounding, terms and gradients are those of one pass."""
        self._forget()
        x, y, start = batch.x, batch.y, batch.start
        alone = self._setup.processes.count == 1
        # Where there are gradients with respect to the images, the last pass need not go back to them once more.
        inputs = self._trained() if self._only_weights else None
        first = 0
        terms: Terms = {}
        logits, moved = [], []
        for number, (size, share) in enumerate(parts, start=1):
            part = slice(first, first + size)
            visit = None if start is None else Visit(start[part])
            pair = self._setup.objective.pair = GradientPair() if batch.compared else None
            with self._watched(), nullcontext() if number == len(parts) else self._unsynchronised():
                with full_float32(self._device) if self._step_module.without_tf32 else nullcontext():
                    values, z = self._module(x[part], y[part], probes.after(first), share, visit)
                leaves = [] if visit is None or visit.leaf is None else [visit.leaf]
                leaves += [] if pair is None else pair.leaves
                wanted = inputs if inputs is None else [*inputs, *leaves]
                self.scaler.scale(values["loss"]).backward(inputs=wanted)
            self._setup.objective.pair = None
            if pair is not None and (cosine := pair.cosine()) is not None:
                values = {**values, GRADIENT_COSINE: cosine}
            if visit is not None:
                moved.append(self._finish(visit, x[part]))
                self._moved = torch.cat(moved)
            if len(parts) == 1 and alone:
                return {name: value.detach() for name, value in values.items()}, z.detach()
            counts = {
                **self._setup.objective.weights(share),
                "loss": 1.0,
                GRADIENT_COSINE: share.weight,
            }  # the loss is weighted already
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value.detach() * counts[name]
            logits.append(z.detach())
            first += size
        return self._of_all(terms), torch.cat(logits)

    def _finish(self, visit: Visit, x: torch.Tensor) -> torch.Tensor:
        objective = self._setup.objective
        assert objective.attacker is not None
        return visit.finish(objective.attacker, x, objective.clip_values)

    def _watched(self) -> AbstractContextManager[None]:
        return lost_processes_named() if self._setup.processes.count > 1 else nullcontext()

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Gradients are averaged over the processes once a step, with those of the last micro-batch."""
        alone = self._setup.processes.count == 1
        context: AbstractContextManager[None] = nullcontext() if alone else self._module.no_sync()  # type: ignore[operator]
        return context

    def _of_all(self, terms: Terms) -> Terms:
        """The terms of the global batch: a mean over the processes, whose terms are weighted already."""
        processes = self._setup.processes
        if processes.count == 1:
            return terms
        parts = [value.double() / processes.count for value in terms.values()]
        sums = processes.sum_tensor(torch.stack(parts))
        return dict(zip(terms, sums.float(), strict=True))

    def _forget(self) -> None:
        """Clear every gradient, also those of weights that the optimizer does not hold."""
        self._setup.optimizer.zero_grad(set_to_none=True)
        for parameter in self._differentiated:
            parameter.grad = None

    def _leave_out(self) -> None:
        """Forget a step that shall not be done."""
        self._forget()
        if self.scaler.is_enabled():
            self.scaler.update(self.scaler.get_scale())  # as it is: it has seen this step's gradients

    def _clip(self) -> None:
        if self._setup.config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._trained(), self._setup.config.max_grad_norm)

    def _step(self, overflow: bool) -> None:
        self._clip()
        if not overflow:
            plain_step(self._setup.optimizer)  # not by the scaler: it would wait for the device to see the same again
        if self.scaler.is_enabled():
            self.scaler.update()

    def _at_worst_weights(
        self, evaluate: Callable[[], tuple[Terms, torch.Tensor, str | None]], terms: Terms, gamma: float
    ) -> str | None:
        """
        Take the gradient again at perturbed weights, with the same perturbed images and dropout. Terms and running
        statistics are those of the weights themselves.
        """
        self._first_pass.take()
        self._setup.objective.images.again()
        self._reseed()
        with perturbed_weights(self._trained(), gamma):
            found, _, culprit = evaluate()
        self._first_pass.restore()
        if culprit is not None:
            terms.update(found)
        return culprit

    def _step_twice(self, evaluate: Callable[[], tuple[Terms, torch.Tensor, str | None]], terms: Terms) -> str | None:
        """
        A step of an optimizer that evaluates the gradient again, elsewhere: of the same images, noise and dropout.

        The running statistics are those of the first pass. If the second is not finite the weights go back.
        """
        before = [(parameter, parameter.detach().clone()) for parameter in self._trained()]
        self._first_pass.take()

        @torch.enable_grad()
        def again() -> torch.Tensor:
            self._reseed()
            found, _, culprit = evaluate()
            self._first_pass.restore()
            if culprit is not None:
                raise NotFiniteError(culprit, found)
            self._clip()
            return found["loss"]

        self._clip()
        try:
            self._setup.optimizer.step(again)  # type: ignore[arg-type]
        except NotFiniteError as error:
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(value)
            terms.update(error.terms)
            return error.culprit
        return None


def has_unused_parameters(
    model: nn.Module, objective: Objective, x: torch.Tensor, y: torch.Tensor, objective_state: ObjectiveState
) -> bool:
    """Whether some parameters take no part in the loss: `DistributedDataParallel` must know."""
    tensors = [*model.parameters(), *objective_state.tensors().values()]
    trained = [tensor for tensor in tensors if tensor.requires_grad and tensor.is_leaf]
    before = SavedBuffers(objective_state.stores())
    before.take()
    try:
        with eval_mode(model), with_graph():
            loss = objective.base_loss(model(x.clone()), y)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    finally:
        before.restore()
    return any(gradient is None for gradient in gradients)
