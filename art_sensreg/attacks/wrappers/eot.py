"""Expectation over transformation (EOT) as a module, so that every attack averages a random model's samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from art_sensreg.attacks.wrappers.bpda import check_traced
from art_sensreg.attacks.wrappers.randomness import Draw, examples_share_noise, graph_bytes
from art_sensreg.penalties.forward.taps import ActivationTaps
from art_sensreg.utils import check_choice, check_count
from art_sensreg.utils.arrays import shape_or_type
from art_sensreg.utils.model_rng import Replay, random_sources

AVERAGES = ("logits", "probabilities")
NOISES = ("auto", "rows", "shared")


@dataclass(frozen=True)
class SamplePlan:
    """
    How the samples of a batch are divided among forward passes: each holds `images` images, each of them `samples`
    times. A pass may be recomputed for its gradient, so that its graph need not be kept.
    """

    samples: int
    images: int
    recompute: bool


class EOT(nn.Module):
    """
    A random model averaged over samples, with one row of logits for each image, as attacks expect.

    ART's own EoT preprocessors cover only transforms of the input, and return n outputs for each image. Besides,
    attacks that rebuild a plain `PyTorchClassifier` from `estimator.model` (APGD, and so AutoAttack) see neither them
    nor an overridden `loss_gradient`. All of them see a module around the model.

    In training mode, and while activations are read (`ActivationTaps`), a forward pass is a single draw, so that
    training a random model is unchanged.

    A forward pass that is recomputed for its gradient repeats its random draws: from the global generators of torch,
    numpy and Python, and from generators that modules keep as attributes. If a model draws from elsewhere, set `memory`
    large enough for all passes.

    | Paper link: https://arxiv.org/abs/1707.07397 (Athalye et al. 2018), https://arxiv.org/abs/1802.00420 (section 4.2)

    :param model: Module from images `(n, ...)` to logits `(n, C)`, random in evaluation mode.
    :param samples: Number of draws that are averaged, at least 1.
    :param transform: Random differentiable function of a batch of tensors that comes before the model, or None. It is
        given tensors, whose `std` divides by n - 1; numpy functions go into `BPDA`.
    :param average: `logits`, or `probabilities`: the logarithm of the mean softmax.
    :param noise: `rows`: every example (row) of a batch has its own noise, so that many samples share a pass; `shared`:
        the examples of a batch share a draw (noise on weights, one size of a random resize), so that every sample has
        a pass of its own; `auto`: measured at first use, and again after training or loading.
    :param max_rows: Most examples in a forward pass; None: as many as `memory` holds.
    :param memory: Bytes that the graphs of all passes may take together. Beyond it, or where `max_rows` divides the
        samples, each pass is recomputed for its gradient, and only one graph is alive at a time.
    :raises TypeError: If an argument has the wrong type.
    :raises ValueError: If an argument is out of range.

    Example:
    >>> from art_sensreg.attacks.wrappers.eot import EOT
    >>> class Noisy(nn.Module):
    ...     def forward(self, x):
    ...         return x + torch.randn_like(x)
    >>> _ = torch.manual_seed(0)
    >>> model = EOT(Noisy(), samples=10000).eval()
    >>> model(torch.tensor([[1.0, 2.0]])).round(decimals=1)
    tensor([[1., 2.]])
    """

    def __init__(
        self,
        model: nn.Module,
        samples: int = 16,
        transform: Draw | None = None,
        average: str = "logits",
        noise: str = "auto",
        max_rows: int | None = None,
        memory: int = 2**29,
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` is {type(model).__name__}; expected an nn.Module from images to logits.")
        if transform is not None and not callable(transform):
            raise TypeError(f"`transform` is {type(transform).__name__}; expected a function of a batch, or None.")
        self.model, self.transform = model, transform
        self.samples, self.average, self.noise = samples, average, noise
        self.max_rows, self.memory = max_rows, memory
        self._averaging = True
        self._measured: dict[Any, Any] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("average", "noise"):
            check_choice(name, value, AVERAGES if name == "average" else NOISES)
        elif name in ("samples", "memory") or (name == "max_rows" and value is not None):
            check_count(name, value)
            value = int(value)
        super().__setattr__(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        The average over the samples.

        :param x: Images, `(n, ...)`.
        :return: Logits `(n, C)`.
        :raises ValueError: If the model does not return one row for each image, or too few columns for `probabilities`.
        """
        if self.training or not self._averaging or len(x) == 0 or _activations_are_read():
            return self.draw(x)
        plan = self.plan(x)
        sources = random_sources(self, x.device) if plan.recompute and torch.is_grad_enabled() else None
        outputs = []
        for done in range(0, self.samples, plan.samples):
            count = min(plan.samples, self.samples - done)
            outputs.append(torch.cat([self._pass(part, count, sources) for part in x.split(plan.images)], dim=1))
        return self._mean(torch.cat(outputs))

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        """
        A single draw.

        :param x: Images, `(n, ...)`.
        :return: Logits `(n, C)`.
        """
        if self.transform is not None:
            x = check_traced("transform", self.transform(x), x)
        logits: torch.Tensor = self.model(x)
        return logits

    @contextmanager
    def single_draws(self) -> Iterator[None]:
        """Inside, a forward pass is a single draw in evaluation mode too."""
        before, self._averaging = self._averaging, False
        try:
            yield
        finally:
            self._averaging = before

    def plan(self, x: torch.Tensor) -> SamplePlan:
        """How the samples of a batch are divided among forward passes; the model is measured first if it has to be."""
        total = self.samples * len(x)
        fixed, each = (0, 0) if self.max_rows is not None or self.samples == 1 else self._footprint(x)
        most = self.max_rows or (max(1, (self.memory - fixed) // each) if each else total)
        images = min(len(x), most)
        together = 1 if self.samples == 1 or self._shared(x) else min(self.samples, max(1, most // images))
        passes = -(-self.samples // together) * -(-len(x) // images)
        too_many = total > self.max_rows if self.max_rows else passes * fixed + total * each > self.memory
        return SamplePlan(together, images, recompute=passes > 1 and too_many)

    def forget(self) -> None:
        """Measure the model again at its next use, as after training and after loading weights into this module."""
        self._measured.clear()

    def train(self, mode: bool = True) -> EOT:
        if mode:
            self.forget()
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.forget()
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        names = ("samples", "average", "noise", "max_rows", "memory")
        settings = [f"{name}={getattr(self, name)!r}" for name in names]
        if self.transform is not None and not isinstance(self.transform, nn.Module):
            settings.append(f"transform={getattr(self.transform, '__name__', repr(self.transform))}")
        return ", ".join(settings)

    def _pass(self, x: torch.Tensor, count: int, sources: list[Any] | None) -> torch.Tensor:
        """Logits of `count` samples, `(count, n, C)`, from one forward pass; recomputed if there are `sources`."""
        if sources is None:
            return self._samples_of(x, count)
        replay = Replay(sources)  # checkpoint itself repeats torch's draws only
        output: torch.Tensor = checkpoint(
            self._samples_of, x, count, use_reentrant=False, context_fn=lambda: (nullcontext(), replay)
        )
        return output

    def _samples_of(self, x: torch.Tensor, count: int) -> torch.Tensor:
        logits = self.draw(x.repeat(count, *[1] * (x.ndim - 1)))  # a copy: the model may work in place
        if not isinstance(logits, torch.Tensor) or logits.shape[:1] != (count * len(x),):
            came = shape_or_type(logits)
            raise ValueError(f"`model` returns {came} for {count * len(x)} images; expected one vector of logits each.")
        return logits.view(count, len(x), *logits.shape[1:])

    def _mean(self, logits: torch.Tensor) -> torch.Tensor:
        if self.average == "logits":
            return logits.mean(0)
        if logits.ndim != 3 or logits.shape[2] < 2:
            raise ValueError(
                f"`average` is 'probabilities' and the model returns outputs of shape {tuple(logits.shape[2:])}; "
                "expected one logit for each of at least two classes."
            )
        return logits.log_softmax(2).logsumexp(0) - math.log(len(logits))

    def _shared(self, x: torch.Tensor) -> bool:
        if self.noise != "auto":
            return self.noise == "shared"
        key = ("noise", tuple(module.training for module in self.modules()))
        if key not in self._measured:
            self._measured[key] = examples_share_noise(self.draw, self, x, self.max_rows)
        return bool(self._measured[key])

    def _footprint(self, x: torch.Tensor) -> tuple[int, int]:
        key = ("bytes", x.shape[1:], x.dtype)
        if key not in self._measured:
            self._measured[key] = graph_bytes(self.draw, self, x)
        fixed, each = self._measured[key]
        return fixed, each


def _activations_are_read() -> bool:
    return any(isinstance(mode, ActivationTaps) for mode in _get_current_function_mode_stack())
