"""Expectation over transformation (EOT) as a module, so that every attack averages a random model's samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from art_sensreg.attacks.bpda import Tensors
from art_sensreg.penalties.base import check_choice, check_count

AVERAGES = ("logits", "probabilities")
NOISES = ("auto", "rows", "shared")

# Identical rows, and forward passes of them, that tell whether rows of one pass share their noise.
_ROWS, _PASSES = 6, 12
# Ratio of variances above which rows are taken to share noise. Independent rows give about 1; any doubt counts as
# shared, which is right for every model and only slower.
_SHARED_RATIO = 1.5


class EOT(nn.Module):
    """
    A random model averaged over samples; one row of logits an image, as attacks expect.

    ART's own EoT preprocessors cover transforms of the input only, return n rows an image, and are ignored by attacks
    that rebuild a plain `PyTorchClassifier` from `estimator.model` (APGD, and so AutoAttack). A module around the model
    is seen by all of them.

    In training mode it is the model itself, with one draw, so that training a random model is unchanged.

    | Paper link: https://arxiv.org/abs/1707.07397 (Athalye et al. 2018), https://arxiv.org/abs/1802.00420 (section 4.2)

    :param model: Module from images to logits, random in evaluation mode.
    :param samples: Number of draws that are averaged.
    :param transform: Random differentiable function of a batch that comes before the model, or None.
    :param average: `logits`, or `probabilities`: the logarithm of the mean softmax.
    :param noise: `rows`: every row of a forward pass draws its own noise, so many samples share a pass; `shared`: the
        rows of a pass share a draw (noise on weights, one size of a random resize), so every sample has a pass of its
        own; `auto`: measured at first use.
    :param max_rows: Rows of a forward pass; None: as many as `memory` holds.
    :param memory: Bytes that the graph of a pass may take; where more passes are needed, each is computed again for
        its gradient, so that never more than one graph is kept.
    :raises TypeError: If an argument is of a wrong type.
    :raises ValueError: If an argument is out of range.

    Example:
    >>> from art_sensreg.attacks import EOT
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
        transform: Tensors | None = None,
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
        check_count("samples", samples)
        check_choice("average", average, AVERAGES)
        check_choice("noise", noise, NOISES)
        check_count("memory", memory)
        if max_rows is not None:
            check_count("max_rows", max_rows)
        self.model, self.transform = model, transform
        self.samples, self.average, self.noise, self.max_rows, self.memory = samples, average, noise, max_rows, memory
        self._shared: bool | None = None
        self._row_bytes: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """
        The average over the samples.

        :param x: Images, `(n, ...)`.
        :return: Logits `(n, C)`.
        """
        if self.training:
            return self._draw(x)
        if self.samples == 1:
            return self._averaged(self._draw(x)[None])
        outputs = [self._chunk(x, count) for count in self._chunks(x)]
        return self._averaged(torch.cat(outputs))

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        """
        One draw, as a user who asks once gets it.

        :param x: Images, `(n, ...)`.
        :return: Logits `(n, C)`.
        """
        return self._draw(x)

    def extra_repr(self) -> str:
        return f"samples={self.samples}, average={self.average!r}, noise={self.noise!r}"

    def _draw(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(x if self.transform is None else self.transform(x))
        return logits

    def _samples_of(self, x: torch.Tensor, count: int) -> torch.Tensor:
        """Logits of `count` samples, `(count, n, C)`, from one forward pass."""
        repeated = x.repeat(count, *[1] * (x.ndim - 1))
        logits = self._draw(repeated)
        return logits.view(count, len(x), *logits.shape[1:])

    def _averaged(self, logits: torch.Tensor) -> torch.Tensor:
        if self.average == "logits":
            return logits.mean(0)
        return logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log().to(logits)

    def _chunks(self, x: torch.Tensor) -> list[int]:
        """How many samples each forward pass takes."""
        if self._shared is None:
            self._shared = {"rows": False, "shared": True}.get(self.noise)
        if self._shared is None:
            self._shared = self._rows_share_noise(x)
        if self._shared:
            return [1] * self.samples
        rows = self.max_rows or max(1, self.memory // self._bytes_of_a_row(x))
        most = max(1, rows // max(1, len(x)))
        return [min(most, self.samples - done) for done in range(0, self.samples, most)]

    def _chunk(self, x: torch.Tensor, count: int) -> torch.Tensor:
        alone = count == self.samples or not torch.is_grad_enabled()
        # Many small graphs fit: only those that do not are computed twice.
        fits = self.max_rows is None and self.samples * len(x) * self._bytes_of_a_row(x) <= self.memory
        if alone or fits:
            return self._samples_of(x, count)
        output: torch.Tensor = checkpoint(self._samples_of, x, count, use_reentrant=False)
        return output

    def _bytes_of_a_row(self, x: torch.Tensor) -> int:
        """What the graph of one row keeps for its gradient."""
        if self._row_bytes is None:
            kept = 0

            def count(tensor: torch.Tensor) -> torch.Tensor:
                nonlocal kept
                kept += 0 if isinstance(tensor, nn.Parameter) else tensor.numel() * tensor.element_size()
                return tensor

            rows = x[:1].detach().clone().requires_grad_(True)
            saved = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
            with random_state_kept(x.device), torch.enable_grad(), saved:
                self._draw(rows)
            self._row_bytes = max(kept, x[:1].numel() * x.element_size())
        return self._row_bytes

    def _rows_share_noise(self, x: torch.Tensor) -> bool:
        """
        Whether rows of one pass share a part of their noise: their mean then varies more from pass to pass than the
        spread inside of the passes explains.
        """
        rows = x[:1].detach().repeat(_ROWS, *[1] * (x.ndim - 1))
        with torch.no_grad(), random_state_kept(x.device):
            draws = torch.stack([self._draw(rows.clone()) for _ in range(_PASSES)]).double()
        scale = float(draws.abs().max())
        within = draws.var(1).mean(0)
        between = draws.mean(1).var(0)
        # Kernels may round differently from row to row: that is no noise.
        if float(between.max()) <= (1e-6 * scale) ** 2:
            return bool(float(within.max()) <= (1e-6 * scale) ** 2)
        return bool((between.sum() > _SHARED_RATIO * within.sum() / _ROWS).item())


@contextmanager
def random_state_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """
    Put the global random state of torch and numpy back afterwards: ART's preprocessors draw from the latter.

    :param device: Device whose generator counts too.
    :param seed: Seed inside; None: go on from the present state.

    Example:
    >>> from art_sensreg.attacks.eot import random_state_kept
    >>> with random_state_kept(torch.device("cpu"), seed=0):
    ...     first = np.random.rand()
    >>> with random_state_kept(torch.device("cpu"), seed=0):
    ...     first == np.random.rand()
    True
    """
    state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if seed is not None:
                torch.manual_seed(seed)
                np.random.seed(seed % 2**32)
            yield
    finally:
        np.random.set_state(state)


def averaged(model: nn.Module, **settings: Any) -> EOT:
    """
    A model as EOT, unless it is one already.

    :param model: The model.
    :param settings: As for :class:`EOT`.
    :return: The module.

    Example:
    >>> from art_sensreg.attacks.eot import averaged
    >>> inner = averaged(nn.Dropout(), samples=4)
    >>> averaged(inner, samples=8) is inner, inner.samples
    (True, 8)
    """
    if not isinstance(model, EOT):
        return EOT(model, **settings)
    for name, value in settings.items():
        setattr(model, name, value)
    return model
