"""One training step: forward in the chosen precision, the check of its loss, backward, the update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from art_sensreg.objectives import Objective, Share
from art_sensreg.penalties.noise import Probes
from art_sensreg.penalties.precision import full_float32, input_width, tf32_blurs
from art_sensreg.training.averaging import WeightAverage
from art_sensreg.training.config import TrainingConfig
from art_sensreg.training.distributed import Processes, lost_processes_named

LOW_PRECISION_SIGMA = 0.3
"""
Below this `sigma` (of an input range of length 1) the pass of the penalties runs in float32 whatever `precision` is.

The difference of two activations that are rounded to 8 bits is noise when they differ by little.
"""

# On the CPU a batch and its noisy copies are computed in parts with about so many tapped activations: 12 MB.
_CACHED_NUMBERS = 3 * 2**20
_LEAST_ROWS = 16

_LOW = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class StepModule(nn.Module):
    """
    The model and its objective as one module, so that `DistributedDataParallel` sees one forward pass a step.

    :param model: The model.
    :param objective: What is minimised.
    :param precision: As in `TrainingConfig`.

    Example:
    >>> from art_sensreg.objectives import WHOLE_BATCH
    >>> from art_sensreg.training.steps import StepModule
    >>> module = StepModule(nn.Linear(3, 2), Objective(), "bfloat16")
    >>> terms, logits = module(torch.rand(4, 3), torch.zeros(4, dtype=torch.long), None, WHOLE_BATCH)
    >>> list(terms), logits.dtype
    (['loss', 'base'], torch.float32)
    """

    def __init__(self, model: nn.Module, objective: Objective, precision: str = "float32") -> None:
        super().__init__()
        self.model = model
        self.objective = objective
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
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        config: TrainingConfig,
        processes: Processes,
        unused: bool = False,
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.processes = processes
        self.max_grad_norm = config.max_grad_norm
        self.layout = torch.channels_last if config.channels_last else None
        self.average = None if config.ema is None else WeightAverage(model, config.ema)
        device = next(model.parameters()).device
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self._only_weights = objective.double_backward and processes.count == 1
        self._plain = device.type == "cpu" and processes.count == 1 and config.precision == "float32"
        self._plain = self._plain and not config.compile
        step = StepModule(model, objective, config.precision)
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
        self, x: torch.Tensor, y: torch.Tensor, own: int, probes: Probes, share: Share
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, str | None]:
        """
        Do one step, unless the loss or its gradient is not finite: then no weight moves.

        The host waits for the device once, to learn whether they are.

        :param x: Images.
        :param y: Labels.
        :param own: How many of the rows count for this process.
        :param probes: Source of the penalties' noise.
        :param share: What the terms count.
        :return: The terms of the whole batch, the logits of this process's rows, and the name of a term that is not
            finite, or None.
        """
        if self.layout is not None and x.ndim == 4:
            x = x.contiguous(memory_format=self.layout)
        parts = self._parts(len(x), share)
        if len(parts) > 1:
            terms, logits = self._backward_in_parts(x, y, probes, parts)
        else:
            with self._watched(), self._exactly():
                terms, logits = self.module(x, y, probes, share)
        loss, terms = terms["loss"], self._of_all(terms, share)
        if len(parts) == 1:
            self.optimizer.zero_grad(set_to_none=True)
            with self._watched():
                self.scaler.scale(loss).backward(inputs=self._inputs())
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        size = self._gradient_size()
        culprit = first_nonfinite(terms, size)
        # A gradient that overflows half precision is no fault: the scaler lowers its scale, and the step is left out.
        overflow = culprit == "gradient" and self.scaler.is_enabled()
        if culprit is not None and not overflow:
            self._leave_out()
            return ({**terms, "gradient": size} if culprit == "gradient" else terms), logits[:own], culprit
        self._update(overflow)
        return terms, logits[:own], None

    def _watched(self) -> AbstractContextManager[None]:
        return lost_processes_named() if self.processes.count > 1 else nullcontext()

    def _inputs(self) -> list[nn.Parameter] | None:
        """
        Where the images are differentiated by, the last pass need not go as far as them once more.

        Which weights are frozen may change from step to step.
        """
        return [p for p in self.model.parameters() if p.requires_grad] if self._only_weights else None

    def _gradient_size(self) -> torch.Tensor:
        """A finite loss can have a gradient that is not: of a root at 0, for one."""
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        return torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).sum()

    def _leave_out(self) -> None:
        """Forget a step that shall not be done."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            self.scaler.update(self.scaler.get_scale())  # as it is: it has seen this step's gradients

    def _update(self, overflow: bool = False) -> None:
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        if not overflow:
            self.optimizer.step()  # and not by the scaler, which would wait for the device to see the same once more
        if self.scaler.is_enabled():
            self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _parts(self, rows: int, share: Share) -> list[tuple[int, Share]]:
        """
        Divide a batch into parts whose activations stay in the processor's cache: their rows, and what these count.

        The rows without noisy copies are the last part, and need no comparison.
        """
        noisy = rows if share.noisy_rows is None else share.noisy_rows
        fitting = self.objective.rows_at_once(self.model, _CACHED_NUMBERS) if self._plain else None
        if fitting is None:
            return [(rows, share)]
        count = -(-noisy // max(fitting, _LEAST_ROWS))
        sizes = [noisy // count + (index < noisy % count) for index in range(count)]
        parts = [(size, Share(None, size / rows, size / noisy)) for size in sizes]
        return parts if noisy == rows else [*parts, (rows - noisy, Share(0, (rows - noisy) / rows, 0.0))]

    def _backward_in_parts(
        self, x: torch.Tensor, y: torch.Tensor, probes: Probes, parts: list[tuple[int, Share]]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Forward and backward of each part in turn: the same means and, but for rounding, gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        first = 0
        terms: dict[str, torch.Tensor] = {}
        logits = []
        for rows, share in parts:
            part = slice(first, first + rows)
            values, z = self.module(x[part], y[part], probes.after(first), share)
            values["loss"].backward()
            counts = {**self.objective.weights(share), "loss": 1.0}  # the loss is weighted already
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value.detach() * counts[name]
            logits.append(z.detach())
            first += rows
        return terms, torch.cat(logits)

    def _of_all(self, terms: dict[str, torch.Tensor], share: Share) -> dict[str, torch.Tensor]:
        """The terms of the global batch: a mean over the processes, each counted by its rows."""
        if self.processes.count == 1:
            return terms
        counts = {**self.objective.weights(share), "loss": 1.0}  # the loss is weighted already
        parts = [value.detach().double() * counts[name] / self.processes.count for name, value in terms.items()]
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


def first_nonfinite(terms: dict[str, torch.Tensor], size: torch.Tensor) -> str | None:
    """
    Find what is NaN or infinite in a step; the host waits for the device once, unless it is a term.

    :param terms: The terms of the loss, 0-d tensors, and `loss` itself.
    :param size: Size of the gradient, a 0-d tensor.
    :return: The name of a term, `loss`, `gradient`, or None.

    Example:
    >>> from art_sensreg.training.steps import first_nonfinite
    >>> one, nan = torch.tensor(1.0), torch.tensor(float("nan"))
    >>> first_nonfinite({"loss": one}, one), first_nonfinite({"loss": one}, nan)
    (None, 'gradient')
    >>> first_nonfinite({"loss": nan, "base": one, "jacobian": nan}, nan)
    'jacobian'
    """
    loss = terms["loss"].detach()
    loss_finite, size_finite = map(math.isfinite, torch.stack([loss, size.to(loss)]).tolist())
    if loss_finite:
        return None if size_finite else "gradient"
    names = (name for name, value in terms.items() if name != "loss" and not torch.isfinite(value))
    return next(names, "loss")


def unused_parameters(model: nn.Module, objective: Objective, x: torch.Tensor, y: torch.Tensor) -> Sequence[str]:
    """
    Parameters that take no part in the loss: `DistributedDataParallel` must know of them.

    :param model: The model.
    :param objective: The objective.
    :param x: Some images.
    :param y: Their labels.
    :return: Their names.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    was_training = model.training
    try:
        loss = objective.base_loss(model.eval()(x.clone()), y)
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    finally:
        model.train(was_training)
    return [name for (name, _), gradient in zip(named, gradients, strict=True) if gradient is None]
