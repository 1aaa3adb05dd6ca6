"""A separate `sigma` for each feature, in its own unit, for tabular data."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import torch

from art_sensreg.utils import check_number, python_number

# Arrays of at most so many numbers are printed in full.
_PRINTED = 16


class FeatureSigma:
    """
    Sizes of the noise, one for each feature of an input: feature `j` gets `s_j * xi_j`, in its own unit.

    A difference of activations still has one divisor, `s^2`, the mean of the `s_j^2`. A penalty is then, for small
    sizes, `sum_j (s_j / s)^2 ||da/dx_j||^2`: the derivative with respect to each feature counts in units of its own
    `s_j`, so that a change of units (`x_j` and `s_j` times 1000) changes no ratio between features; equal entries give
    exactly the value for the one number; and `s` is the root mean square of the perturbation, as it is for adversarial
    ones. To penalise raw features as if they were standardised, give `0.1 * x.std(axis=0)`.
    """

    def __init__(self, values: Any) -> None:
        expected = "expected a number, a range (low, high), or an array of finite numbers above 0, one for each feature"
        if isinstance(values, torch.Tensor):
            if values.requires_grad:
                raise TypeError(f"`sigma` is a tensor that requires grad, but it is not trained; {expected}.")
            values = values.detach().cpu()
            values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        if isinstance(values, np.ma.MaskedArray):
            raise TypeError(f"`sigma` is a masked array; {expected}.")
        if values.dtype.kind not in "fiu":
            raise TypeError(f"`sigma` is an array of {values.dtype}; {expected}.")
        self._values = np.array(values, dtype=np.float64)
        self._values.flags.writeable = False
        if not self._values.size:
            raise ValueError(f"`sigma` is an array of shape {self._values.shape}; {expected}.")
        wrong = np.argwhere(~(np.isfinite(self._values) & (self._values > 0)))
        if len(wrong):
            place = tuple(map(int, wrong[0]))
            raise ValueError(f"`sigma` is {float(self._values[place])} at {place}; {expected}.")
        self._tensors: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._values.shape

    @property
    def smallest(self) -> float:
        """The smallest entry."""
        return float(self._values.min())

    @property
    def root_mean_square(self) -> float:
        """`s`, by which differences are divided."""
        largest = float(self._values.max())
        return largest if largest == self.smallest else math.sqrt(float((self._values**2).mean()))

    def check_fits(self, x: torch.Tensor) -> None:
        """Raise a ValueError unless the array broadcasts to the shape of one input of the batch."""
        wanted = tuple(x.shape[1:])
        try:
            fits = np.broadcast_shapes(self.shape, wanted) == wanted
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"`sigma` has shape {self.shape}; expected one that broadcasts to an input's, {wanted}.")

    def like(self, x: torch.Tensor) -> torch.Tensor:
        """The array as a tensor of the dtype and on the device of `x`, copied there once."""
        key = x.device, x.dtype
        if key not in self._tensors:
            self._tensors[key] = torch.as_tensor(np.array(self._values), dtype=x.dtype, device=x.device)
        return self._tensors[key]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self._values, dtype=dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeatureSigma) and np.array_equal(self._values, other._values)

    def __hash__(self) -> int:
        return hash((self.shape, self._values.tobytes()))

    def __getstate__(self) -> dict[str, Any]:
        return {"_values": self._values, "_tensors": {}}

    def __repr__(self) -> str:
        if self._values.size <= _PRINTED:
            return f"array({self._values.tolist()})"
        # A run is told from others by this text: it must differ where an entry does.
        range_ = f"{self.smallest:g} to {float(self._values.max()):g}"
        return f"array(of shape {self.shape}, {range_}, checksum {zlib.crc32(self._values.tobytes()):08x})"


def as_sigma(value: Any, ranges: bool = False) -> Any:
    """Check a `sigma`: a number, a range `(low, high)` if allowed, or an array, of which a `FeatureSigma` is made."""
    if isinstance(value, FeatureSigma):
        return value
    if isinstance(value, (np.ndarray, torch.Tensor)) and value.ndim:
        return FeatureSigma(value)
    if not ranges or not isinstance(value, (tuple, list)):
        check_number("sigma", value, minimum=0.0, exclusive=True)
        return python_number(value)
    if len(value) != 2:
        raise ValueError(f"`sigma` is {value!r}; expected a number, a range (low, high), or an array, one a feature.")
    for bound in value:
        check_number("sigma", bound, minimum=0.0, exclusive=True)
    if value[0] > value[1]:
        raise ValueError(f"`sigma` is {value!r}; expected a range (low, high) with low at most high.")
    bounds = map(python_number, value)
    return list(bounds) if isinstance(value, list) else tuple(bounds)


def noise_sizes(sigma: float | torch.Tensor | FeatureSigma, x: torch.Tensor) -> tuple[Any, float | torch.Tensor]:
    """What noise of unit variance is multiplied by, and what differences are divided by; one number is both."""
    if isinstance(sigma, FeatureSigma):
        return sigma.like(x), sigma.root_mean_square
    return sigma, sigma


def smallest_size(sigma: Any) -> float:
    """The smallest size of noise that a `sigma` stands for, in input units."""
    if isinstance(sigma, FeatureSigma):
        return sigma.smallest
    return float(sigma[0] if isinstance(sigma, (tuple, list)) else sigma)
