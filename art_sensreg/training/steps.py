"""One training step: forward in the chosen precision, the check of its loss, backward, the update."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from art_sensreg.objectives import Objective, Share
from art_sensreg.penalties.forward.noise import Probes
from art_sensreg.training.checkpoint.objective_state import ObjectiveState
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.distributed import Processes, lost_processes_named
from art_sensreg.training.numerics.ema import WeightAverage
from art_sensreg.training.numerics.rollback import BuffersBefore
from art_sensreg.training.optimizers import needs_closure, plain_step
from art_sensreg.training.resources import CHANNELS_LAST
from art_sensreg.training.step_parts import NotFiniteError, base_weighted, first_nonfinite, gradient_size, micro_batches
from art_sensreg.utils.precision import full_float32, input_width, tf32_blurs

LOW_PRECISION_SIGMA = 0.3
"""
Below this `sigma` (of an input range of length 1) the pass of the penalties runs in float32 whatever `precision` is.

The difference of two activations that are rounded to 8 bits is noise when they differ by little.
"""

# On the CPU a batch and its noisy copies are computed in parts with about so many tapped activations: 12 MB.
_CACHED_NUMBERS = 3 * 2**20
_LEAST_ROWS = 16
# So many times in a row the scale of float16 is halved, from 2**16, before it is no longer taken for the cause.
_HALVINGS = 40

_LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class StepModule(nn.Module):
    """
    The model and its objective as one module, so that `DistributedDataParallel` sees one forward pass a step.

    :param model: The model.
    :param objective: What is minimised.
    :param precision: As in `TrainingConfig`.
    :param own: Tensors of the objective's own as a module: their gradients are averaged over the processes too.

    Example:
    >>> from art_sensreg.objectives import WHOLE_BATCH
    >>> from art_sensreg.training.steps import StepModule
    >>> module = StepModule(nn.Linear(3, 2), Objective(), "bfloat16")
    >>> terms, logits = module(torch.rand(4, 3), torch.zeros(4, dtype=torch.long), None, WHOLE_BATCH)
    >>> list(terms), logits.dtype
    (['loss', 'base'], torch.float32)
    """

    def __init__(
        self, model: nn.Module, objective: Objective, precision: str = "float32", own: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.own = own
        width = input_width(objective.clip_values)
        smallest = objective.smallest_sigma
        fine = smallest is not None and smallest < LOW_PRECISION_SIGMA * width
        self.low = None if fine else _LOW.get(precision)
        self.without_tf32 = tf32_blurs(smallest, width)

    def forward(
        self, x: torch.Tensor, y: torch.Tensor, probes: Probes | None, share: Share
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if self.low is None:
            terms, logits = self.objective(self.model, x, y, probes, share)
            return terms, logits
        with torch.autocast(x.device.type, dtype=self.low):
            terms, logits = self.objective(self.model, x, y, probes, share)
        return terms, logits.float()


class Stepper:
    """
    Does training steps, and keeps what belongs to them: gradient scaler, weight average, the distributed wrapper.

    :param model: The model, trained in place.
    :param objective: What each step minimises.
    :param optimizer: Its optimizer.
    :param config: Settings.
    :param processes: Those that share each batch.
    :param unused: Whether some parameters do not take part in the loss.
    :param own: Tensors of the objective's own; None: it has none.
    :param reseed: Puts the model's own randomness back to what it was when the step began.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        processes: Processes,
        unused: bool = False,
        own: ObjectiveState | None = None,
        reseed: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.processes = processes
        self.max_grad_norm = config.max_grad_norm
        self.channels_last = config.channels_last
        self.average = None if config.ema is None else WeightAverage(model, config.ema)
        device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self._only_weights = objective.double_backward and processes.count == 1
        self._plain = device.type == "cpu" and processes.count == 1 and config.precision == "float32"
        self._plain = self._plain and not config.compile
        self._differentiated = [*model.parameters(), *([] if own is None else own.parameters())]
        self._reseed, self._overflows = reseed, 0
        self._twice = needs_closure(optimizer)
        stores = [module._buffers for module in model.modules()] + ([] if own is None else own.stores())
        self._first_pass = BuffersBefore(stores if self._twice else [])
        holder = None if own is None or processes.count == 1 else own.holder()
        step = StepModule(model, objective, config.precision, holder)
        self._exactly = partial(full_float32, device) if step.without_tf32 else nullcontext
        self.module: nn.Module = step
        if config.compile:
            self.module.compile()
        if processes.count > 1:
            self.module = DistributedDataParallel(self.module, find_unused_parameters=unused)

    @property
    def result(self) -> nn.Module:
        """The model whose weights count: the average if there is one."""
        return self.model if self.average is None else self.average.module

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, own: int, probes: Probes, share: Share, pieces: int = 1
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, str | None]:
        """
        Do one step, unless the loss or its gradient is not finite: then no weight moves.

        The host waits for the device once, to learn whether they are.

        :param x: Images.
        :param y: Labels.
        :param own: How many of the rows count for this process.
        :param probes: Source of the penalties' noise.
        :param share: What the terms count.
        :param pieces: Number of micro-batches, whose gradients are added up.
        :return: The terms of the whole batch, the logits of this process's rows, and the name of a term that is not
            finite, or None.
        """
        if self.channels_last and x.ndim in CHANNELS_LAST:
            x = x.contiguous(memory_format=CHANNELS_LAST[x.ndim])
        divided = micro_batches(len(x), share, pieces)
        if pieces > 1:
            divided = base_weighted(divided, self.objective.base_loss, y)
        parts = [part for piece in divided for part in self._parts(*piece)]

        def evaluate() -> tuple[dict[str, torch.Tensor], torch.Tensor, str | None]:
            terms, logits = self._gradients(x, y, probes, parts)
            if self.scaler.is_enabled():
                self.scaler.unscale_(self.optimizer)
            size = gradient_size(self._held())
            culprit = first_nonfinite(terms, size)
            return ({**terms, "gradient": size} if culprit == "gradient" else terms), logits, culprit

        terms, logits, culprit = evaluate()
        # A gradient that overflows half precision is no fault: the scaler lowers its scale, and the step is left out.
        # One that overflows whatever the scale is none of that.
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
            self.average.update_parameters(self.model)
        return terms, logits[:own], culprit

    def _watched(self) -> AbstractContextManager[None]:
        return lost_processes_named() if self.processes.count > 1 else nullcontext()

    def _held(self) -> list[torch.Tensor]:
        """What the optimizer trains; which that is, and what of it is frozen, may change from step to step."""
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    def _gradients(
        self, x: torch.Tensor, y: torch.Tensor, probes: Probes, parts: list[tuple[int, Share]]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Forward and backward of each part in turn: the same means and, but for rounding, gradients as of one."""
        self._forget()
        # Where the images are differentiated by, the last pass need not go as far as them once more.
        inputs = self._held() if self._only_weights else None
        first = 0
        terms: dict[str, torch.Tensor] = {}
        logits = []
        for number, (rows, share) in enumerate(parts, start=1):
            part = slice(first, first + rows)
            with self._watched(), nullcontext() if number == len(parts) else self._unsynchronised():
                with self._exactly():
                    values, z = self.module(x[part], y[part], probes.after(first), share)
                self.scaler.scale(values["loss"]).backward(inputs=inputs)
            if len(parts) == 1 and self.processes.count == 1:
                return {name: value.detach() for name, value in values.items()}, z.detach()
            counts = {**self.objective.weights(share), "loss": 1.0}  # the loss is weighted already
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value.detach() * counts[name]
            logits.append(z.detach())
            first += rows
        return self._of_all(terms), torch.cat(logits)

    def _unsynchronised(self) -> AbstractContextManager[None]:
        """Gradients are averaged over the processes once a step, with those of the last micro-batch."""
        one = self.processes.count == 1
        context: AbstractContextManager[None] = nullcontext() if one else self.module.no_sync()  # type: ignore[operator]
        return context

    def _forget(self) -> None:
        """Clear every gradient, also those of weights that the optimizer does not hold."""
        self.optimizer.zero_grad(set_to_none=True)
        for parameter in self._differentiated:
            parameter.grad = None

    def _leave_out(self) -> None:
        """Forget a step that shall not be done."""
        self._forget()
        if self.scaler.is_enabled():
            self.scaler.update(self.scaler.get_scale())  # as it is: it has seen this step's gradients

    def _clip(self) -> None:
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self._held(), self.max_grad_norm)

    def _step(self, overflow: bool) -> None:
        self._clip()
        if not overflow:
            plain_step(self.optimizer)  # and not by the scaler, which would wait for the device to see the same again
        if self.scaler.is_enabled():
            self.scaler.update()

    def _step_twice(
        self,
        evaluate: Callable[[], tuple[dict[str, torch.Tensor], torch.Tensor, str | None]],
        terms: dict[str, torch.Tensor],
    ) -> str | None:
        """
        A step of an optimizer that takes the gradient anew, elsewhere: of the same rows, noise and dropout.

        The running statistics are those of the first pass. If the second is not finite the weights go back.
        """
        before = [(parameter, parameter.detach().clone()) for parameter in self._held()]
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
            self.optimizer.step(again)  # type: ignore[arg-type]
        except NotFiniteError as error:
            with torch.no_grad():
                for parameter, value in before:
                    parameter.copy_(value)
            terms.update(error.terms)
            return error.culprit
        return None

    def _parts(self, rows: int, share: Share) -> list[tuple[int, Share]]:
        """
        Divide a batch into parts whose activations stay in the processor's cache: their rows, and what these count.

        The rows without noisy copies are the last part, and need no comparison.
        """
        noisy = rows if share.noisy_rows is None else share.noisy_rows
        fitting = self.objective.rows_at_once(self.model, _CACHED_NUMBERS) if self._plain and noisy else None
        if fitting is None:
            return [(rows, share)]
        count = -(-noisy // max(fitting, _LEAST_ROWS))
        sizes = [noisy // count + (index < noisy % count) for index in range(count)]
        all_rows, all_noisy, rest = share.weight, share.noisy_weight, rows - noisy
        parts = [(size, Share(None, all_rows * size / rows, all_noisy * size / noisy)) for size in sizes]
        return parts if not rest else [*parts, (rest, Share(0, all_rows * rest / rows, 0.0))]

    def _of_all(self, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The terms of the global batch: a mean over the processes, whose terms are weighted already."""
        if self.processes.count == 1:
            return terms
        parts = [value.double() / self.processes.count for value in terms.values()]
        sums = self.processes.sum_tensor(torch.stack(parts))
        return dict(zip(terms, sums.float(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Scaler and average, for a checkpoint."""
        average = None if self.average is None else self.average.state_dict()
        return {"scaler": self.scaler.state_dict(), "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Take back what `state_dict` returned.

        :param state: The same.
        """
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
