"""The rules by which layers treat the clean branch of a stacked batch as if it were alone; see `branches`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from art_sensreg.penalties.forward.batch_norm import (
    CleanStatistics,
    Running,
    StatisticsGradient,
    move_statistics,
    normalise,
    normalise_again,
    normalise_alone,
    normalise_first,
    statistics,
)
from art_sensreg.penalties.forward.draws import DRAWS, DROPOUTS, drops_nothing, of_parameter
from art_sensreg.utils.model_rng import rewindable_rng_state, torch_generator

# The arguments of `torch.batch_norm` and `torch.native_batch_norm` in their order, which is not that of `F.batch_norm`.
_NATIVE = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")


class UnstackableError(Exception):
    """A stacked pass has met something that would treat its branches differently; they must run one by one."""


@dataclass
class _BatchNormCall:
    """The arguments of `F.batch_norm`, in its order."""

    input: torch.Tensor
    running_mean: torch.Tensor | None
    running_var: torch.Tensor | None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5
    cudnn_enabled: bool = True

    def as_torch(self, running: Running | None) -> torch.Tensor:
        """What torch makes of it, with these running statistics."""
        mean, var = running or (None, None)
        affine = self.weight, self.bias
        return F.batch_norm(self.input, mean, var, *affine, self.training, self.momentum, self.eps)


class CleanBranchRules(TorchFunctionMode):
    """
    BatchNorm and dropout as the docstring of `branches` says, by intercepting their functional forms, in a stacked
    batch of branches of these sizes, or in the one branch that runs alone.

    `input_gradient` if the outputs will be differentiated with respect to the inputs at fixed statistics; `repeated` if
    further passes are to be normalised with the statistics of this one; `moved` counts how often running means have
    moved in this step already.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        update_statistics: bool,
        input_gradient: bool = False,
        repeated: bool = False,
        moved: Counter[int] | None = None,
    ) -> None:
        super().__init__()
        self.input_gradient, self.repeated = input_gradient, repeated
        self.sizes = sizes
        self.rows = sum(sizes)
        self.stacked = len(sizes) > 1
        self.update_statistics = update_statistics
        self.gradient = StatisticsGradient()
        self.called: Counter[int] = Counter()
        self.moved: Counter[int] = Counter()
        self.random_state: torch.Tensor | None = None  # before the first draw
        self._already = Counter() if moved is None else moved
        self._statistics: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._repeating = False
        self._place = 0

    def repeat(self) -> None:
        """Make the next pass normalise with the statistics of the first one, layer by layer."""
        self._repeating, self._place = True, 0

    def replica(self) -> CleanBranchRules:
        """The same rules from here on, for the recomputation of what follows: statistics do not move once more."""
        made = CleanBranchRules(self.sizes, False, self.input_gradient, self.repeated)
        made.gradient = self.gradient
        made._repeating, made._place = self._repeating, self._place
        made._statistics = self._statistics if self._repeating else []
        return made

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        return func(*args, **kwargs) if rule is None else rule(self, func, *args, **kwargs)

    # --- BatchNorm --------------------------------------------------------------------------------------------------

    def _batch_norm(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        call = _BatchNormCall(*args, **kwargs)
        return self._normalised(call) if call.training else func(*args, **kwargs)

    def _native_batch_norm(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`torch.batch_norm` and `torch.native_batch_norm`: the latter returns statistics too."""
        call = _BatchNormCall(**dict(zip(_NATIVE, args, strict=False)), **kwargs)
        if not call.training:
            return func(*args, **kwargs)
        output = self._normalised(call)
        if func is torch.batch_norm:
            return output
        mean, variance = move_statistics(call.input[: len(call.input) * self.sizes[0] // self.rows], None, 0.0)
        return output, mean, torch.rsqrt(variance + call.eps)

    def _normalised(self, call: _BatchNormCall) -> torch.Tensor:
        input, eps, momentum = call.input, call.eps, call.momentum
        running = None
        if self.update_statistics and call.running_mean is not None and call.running_var is not None:
            running = call.running_mean, call.running_var
        if of_parameter(input) or (len(input) == 1 and self.sizes[0] > 1):
            # Weights are standardised, or examples one by one as channels of a single one: no batch is normalised.
            return call.as_torch(running)
        running = self._noted(running)
        if len(input) % self.rows and self.stacked:
            raise UnstackableError(f"a BatchNorm is applied to {len(input)} rows where the batch has {self.rows}")
        rows = len(input) * self.sizes[0] // self.rows
        if rows * input[0].numel() // input.shape[1] < 2:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {input[:rows].shape}."
            )
        clean = CleanStatistics(rows=rows, eps=eps, running=running, momentum=momentum, gradient=self.gradient)
        if self._repeating:
            output = normalise_again(input, call.weight, call.bias, self._repeated(), eps)
        elif self.stacked or self.input_gradient:
            output = normalise(input, call.weight, call.bias, clean)
            if self.repeated:  # the passes after this one need them with their graph
                self._statistics.append(statistics(input))
        elif self.repeated:
            output, mean, variance = normalise_first(input, call.weight, call.bias, clean)
            self._statistics.append((mean, variance))
        else:
            output = normalise_alone(input, call.weight, call.bias, clean)
        if running is not None and self.stacked:
            self.moved[id(running[0])] += 1
        return output

    def _noted(self, running: Running | None) -> Running | None:
        """Running statistics, unless they have moved in an attempt that was broken off."""
        if running is None:
            return None
        if self.stacked:
            self.called[id(running[0])] += 1
        if self._already[id(running[0])] > 0:
            self._already[id(running[0])] -= 1
            return None
        return running

    def _repeated(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._place >= len(self._statistics):
            raise RuntimeError(
                "The model normalises noisy examples more often than clean ones; expected the same number of times."
            )
        self._place += 1
        return self._statistics[self._place - 1]

    # --- randomness -------------------------------------------------------------------------------------------------

    def _dropout(
        self, func: Callable[..., torch.Tensor], input: torch.Tensor, p: float = 0.5, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        if not self.stacked or drops_nothing(p, args, kwargs) or of_parameter(input):
            return func(input, p, *args, **kwargs)
        if len(input) % self.rows:
            raise UnstackableError(f"dropout is applied to {len(input)} rows where the batch has {self.rows}")
        sizes = [len(input) * size // self.rows for size in self.sizes]
        if kwargs.get("inplace"):  # autograd forbids it on the parts of a split
            kwargs = {**kwargs, "inplace": False}
        outputs = []
        generator = torch_generator(input.device)
        if self.random_state is None:
            self.random_state = generator.get_state()
        with rewindable_rng_state([generator]) as rewind:
            parts = torch.split(input, sizes)
            for part in parts:
                filled = part
                if len(part) < sizes[0]:
                    # Equal draws need equal shapes and layouts: a shorter branch is filled up, and cut again.
                    filled = torch.zeros_like(parts[0])
                    filled[: len(part)] = part
                outputs.append(func(filled, p, *args, **kwargs)[: len(part)])
                rewind()
        return torch.cat(outputs)

    def _draw(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.stacked and DRAWS[func](args, kwargs):
            raise UnstackableError(f"it draws random numbers ({getattr(func, '__name__', func)})")
        return func(*args, **kwargs)


_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys(DRAWS, CleanBranchRules._draw),
    **dict.fromkeys(DROPOUTS, CleanBranchRules._dropout),
    F.batch_norm: CleanBranchRules._batch_norm,
    torch.batch_norm: CleanBranchRules._native_batch_norm,
    torch.native_batch_norm: CleanBranchRules._native_batch_norm,
}
