"""Random directions `xi` with independent entries of mean 0 and variance 1, and where they come from."""

from __future__ import annotations

import math

import torch

from art_sensreg.utils import check_choice
from art_sensreg.utils.rng import derive_seed

# On a GPU the first of many numbers depend on how many are drawn at once: so it is always as many.
_DRAWN_TOGETHER = 1024

NOISES = ("gaussian", "uniform", "rademacher", "sphere")


class Probes:
    """
    Where penalties take their random numbers from in training.

    What is drawn depends on the seed, the step and the place of an example in the global batch, and neither on how many
    processes share the batch nor on what was drawn before.

    Noise is cut at random places from a bank of independent numbers, which is drawn anew every `renewed` steps: for
    each example it is then a vector of independent entries as from `torch.randn`, at a fraction of the cost. The
    vectors of two examples may overlap in the bank, shifted against each other.

    :param seed: Seed of the run.
    :param device: Where the noise is needed.
    :param size: Numbers in the bank; at least 16 examples' worth are kept.
    :param renewed: Steps after which the bank is drawn anew.

    Example:
    >>> from art_sensreg.penalties.forward.noise import Probes, draw_noise
    >>> probes = Probes(seed=0, device=torch.device("cpu"))
    >>> whole = draw_noise(torch.zeros(4, 3), "gaussian", probes.at(step=7))
    >>> part = draw_noise(torch.zeros(2, 3), "gaussian", probes.at(step=7, rank=1, ranks=2))
    >>> torch.equal(whole[1::2], part)
    True
    """

    def __init__(self, seed: int, device: torch.device, size: int = 2**20, renewed: int = 100) -> None:
        self.seed, self.device, self.size, self.renewed = seed, device, size, renewed
        self._generator = torch.Generator(device=device)
        self._banks: dict[tuple[str, int, torch.dtype], tuple[int, torch.Tensor]] = {}
        self._step = self._draws = self._rank = self._first = 0
        self._ranks = 1

    def at(self, step: int, rank: int = 0, ranks: int = 1, first: int = 0) -> Probes:
        """
        Go to a step; what is drawn next depends on it alone.

        :param step: Number of the step in the run.
        :param rank: This process has the examples `rank, rank + ranks, ...` of the global batch.
        :param ranks: Number of processes.
        :param first: How many of this process's examples come before those that are drawn for.
        :return: Itself.
        """
        self._step, self._rank, self._ranks, self._first, self._draws = step, rank, ranks, first, 0
        return self

    def after(self, first: int) -> Probes:
        """Draw for later examples of the same step: `first` of this process's come before them."""
        return self.at(self._step, self._rank, self._ranks, first)

    def generator(self) -> torch.Generator:
        """The generator of the next draw, on the device of the noise; its seed is the same on every process."""
        self._draws += 1
        return self._generator.manual_seed(derive_seed(self.seed, "step", self._step, self._draws))

    def windows(self, shape: tuple[int, ...], noise: str, dtype: torch.dtype) -> torch.Tensor:
        """Noise for this process's examples, cut from the bank, as a new tensor of the given shape."""
        n, width = shape[0], math.prod(shape[1:])
        bank = self._bank(noise, max(self.size, 16 * width), dtype)
        own = self.whole_numbers(len(bank) - width + 1, n)
        return bank.unfold(0, width, 1).index_select(0, own).view(shape)

    def whole_numbers(self, below: int, count: int) -> torch.Tensor:
        """Whole numbers from 0, smaller than `below`, one for each of `count` examples of this process; `(count,)`."""
        before = self._first * self._ranks
        return self._places(below, before + count * self._ranks)[before + self._rank :: self._ranks]

    def _places(self, below: int, count: int) -> torch.Tensor:
        """Whole numbers, drawn where they are needed: a copy to a GPU would make the host wait for it."""
        generator = self.generator()
        if self.device.type == "cpu":  # there, how many are drawn does not change the first ones
            return torch.randint(below, (count,), generator=generator)
        draws = [
            torch.randint(below, (_DRAWN_TOGETHER,), generator=generator, device=self.device)
            for _ in range(0, count, _DRAWN_TOGETHER)
        ]
        return torch.cat(draws)[:count]

    def _bank(self, noise: str, size: int, dtype: torch.dtype) -> torch.Tensor:
        age = self._step // self.renewed
        drawn, bank = self._banks.get((noise, size, dtype), (-1, torch.empty(0)))
        if drawn != age:
            generator = torch.Generator(device=self.device)
            generator.manual_seed(derive_seed(self.seed, "bank", noise, age))
            bank = draw_noise(torch.empty(1, size, dtype=dtype, device=self.device), noise, generator)[0]
            self._banks[noise, size, dtype] = (age, bank)
        return bank


Randomness = torch.Generator | Probes | None


def draw_noise(like: torch.Tensor, noise: str = "gaussian", generator: Randomness = None) -> torch.Tensor:
    """
    Draw one probe for every example of a batch.

    Every kind has mean 0 and variance 1 per entry; `sphere` is uniform on the sphere of norm `sqrt(d)`, so that its
    entries are not independent.

    :param like: Batch of shape `(n, ...)` whose shape, dtype and device the noise takes.
    :param noise: One of `gaussian`, `uniform`, `rademacher` (signs), `sphere`.
    :param generator: Source of randomness on the device of `like`; torch's global one if `None`.
    :return: New tensor of the shape of `like`.
    :raises ValueError: If `noise` is unknown.

    Example:
    >>> from art_sensreg.penalties.forward.noise import draw_noise
    >>> signs = draw_noise(torch.zeros(2, 1, 4, 4), "rademacher", torch.Generator().manual_seed(0))
    >>> sorted(signs.unique().tolist())
    [-1.0, 1.0]
    """
    check_choice("noise", noise, NOISES)
    if noise == "sphere":
        rows = draw_noise(like, "gaussian", generator).flatten(1)
        return torch.nn.functional.normalize(rows, dim=1).mul_(math.sqrt(rows.shape[1])).reshape(like.shape)
    if isinstance(generator, Probes):
        return generator.windows(tuple(like.shape), noise, like.dtype)
    if noise == "gaussian":
        return torch.randn(like.shape, dtype=like.dtype, device=like.device, generator=generator)
    if noise == "uniform":
        unit = torch.rand(like.shape, dtype=like.dtype, device=like.device, generator=generator)
        return unit.sub_(0.5).mul_(2 * math.sqrt(3))
    bits = torch.randint(0, 2, like.shape, dtype=torch.int8, device=like.device, generator=generator)
    return bits.to(like.dtype).mul_(2).sub_(1)


def draw_unit_sphere(n: int, dim: int, like: torch.Tensor, generator: Randomness = None) -> torch.Tensor:
    """Draw `n` vectors uniformly from the unit sphere of `R^dim`, as the projection estimator needs them."""
    return torch.nn.functional.normalize(draw_noise(like.new_empty(n, dim), "gaussian", generator), dim=1)


def draw_uniform(like: torch.Tensor, generator: Randomness = None) -> torch.Tensor:
    """Draw one number, uniform in [0, 1), the same on every process; a 0-d tensor."""
    if isinstance(generator, Probes):
        return torch.rand((), generator=generator.generator(), device=generator.device).to(like)
    return torch.rand((), dtype=like.dtype, device=like.device, generator=generator)
