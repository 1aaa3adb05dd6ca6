"""The step cost of a training run: its own steps and plain ones timed in turn, so that both see the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from art_sensreg.benchmark.defences.train_spec import TrainingSpec

# Blocks of its own steps that a training run is divided into; each is followed by plain ones.
_BLOCKS = 9
# Plain steps in a block, and the seconds after which a block of a large model ends.
_PLAIN, _PATIENCE = 10, 0.4


class PlainSteps:
    """
    Cross-entropy steps in a plain PyTorch loop on a model of its own: the unit of the step cost. No global random
    state is drawn from.

    Example:
    >>> from art_sensreg.benchmark.defences.step_timing import PlainSteps
    >>> from art_sensreg.benchmark.defences.train_spec import TrainingSpec
    >>> from art_sensreg.datasets import load_dataset
    >>> data = load_dataset("digits").limited(100, 10)
    >>> spec = TrainingSpec(dataset=data, model="mlp", epochs=1, batch_size=20, learning_rate=1e-3, eps=0.1)
    >>> PlainSteps(spec).seconds(steps=3) > 0
    True
    """

    def __init__(self, spec: TrainingSpec, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._clock = torch.device(spec.device), clock
        with torch.random.fork_rng():
            self._model = spec.new_model().to(self._device).train()
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=spec.learning_rate)
        rows = spec.batch_size * 8
        self._x = torch.from_numpy(spec.dataset.x_train[:rows]).to(self._device)
        self._y = torch.from_numpy(spec.dataset.y_train[:rows]).to(self._device)
        self._rows = min(spec.batch_size, len(self._x))
        self._generator = torch.Generator().manual_seed(spec.seed)
        self._step()  # the first one sets everything up

    def seconds(self, steps: int = 30, patience: float = 3.0) -> float:
        """The median over steps, of which a large model makes one at least and no more after `patience` seconds."""
        taken: list[float] = []
        while not taken or (len(taken) < steps and sum(taken) < patience):
            start = self._clock()
            self._step()
            taken.append(self._clock() - start)
        return median(taken)

    def _step(self) -> None:
        with torch.random.fork_rng(), torch.enable_grad():
            batch = torch.randint(len(self._x), (self._rows,), generator=self._generator).to(self._device)
            loss = nn.functional.cross_entropy(self._model(self._x[batch]), self._y[batch])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            loss.item()  # waits for a GPU


class StepTimer:
    """
    Times the steps of whatever is trained inside, by the calls of its optimizers, and plain ones after every block.

    What is done before the first step and after the last one is not counted. Penalties and adversarial examples that a
    trainer makes for a step are; so are second optimizers and repeated steps, since the cost is that of a step of the
    recipe's schedule: `epochs` passes over the data.

    :param spec: What is trained.
    :param clock: Seconds.

    Example:
    >>> from art_sensreg.benchmark.defences.step_timing import StepTimer
    >>> from art_sensreg.benchmark.defences.train_spec import TrainingSpec
    >>> from art_sensreg.datasets import load_dataset
    >>> data = load_dataset("digits").limited(100, 10)
    >>> spec = TrainingSpec(dataset=data, model="mlp", epochs=1, batch_size=20, learning_rate=1e-3, eps=0.1)
    >>> with StepTimer(spec) as timer:
    ...     _ = spec.art_classifier().fit(data.x_train, data.y_train, batch_size=20, nb_epochs=2)
    >>> len(timer.ratios())
    9
    """

    def __init__(self, spec: TrainingSpec, clock: Callable[[], float] = time.perf_counter) -> None:
        self._spec, self._clock = spec, clock
        self._plain = PlainSteps(spec, clock)
        self._length = max(1, spec.steps // _BLOCKS)
        self._calls = self._in_block = 0
        self._start: float | None = None
        self._busy = False
        self._own: list[float] = []
        self.units: list[float] = []
        self.spent = 0.0

    def __enter__(self) -> StepTimer:
        self._time_plain()
        self._handle = register_optimizer_step_post_hook(self._after_step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def ratios(self) -> tuple[float, ...]:
        """
        Of each block, the time of a step over that of the plain ones before and after it; none if no optimizer of
        torch made steps.
        """
        # Fewer calls than steps: it was stopped early.
        calls_in_a_step = max(1.0, self._calls / self._spec.steps)
        pairs = zip(self._own, self.units, self.units[1:], strict=False)
        return tuple(own * calls_in_a_step / ((before + after) / 2) for own, before, after in pairs)

    def _after_step(self, *arguments: Any) -> None:
        if self._busy:
            return
        self._calls += 1
        if self._start is None:  # the first step of all has everything to set up
            self._start = self._now()
            return
        self._in_block += 1
        if self._in_block == self._length:
            self._own.append((self._now() - self._start) / self._length)
            self._in_block = 0
            self._time_plain()
            self._start = self._clock()

    def _time_plain(self) -> None:
        start, self._busy = self._clock(), True
        try:
            self.units.append(self._plain.seconds(_PLAIN, _PATIENCE))
        finally:
            self._busy = False
        self.spent += self._clock() - start

    def _now(self) -> float:
        if self._spec.device == "cuda":
            torch.cuda.synchronize()
        return self._clock()
