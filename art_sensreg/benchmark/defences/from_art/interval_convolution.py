"""ART's interval convolution without its dense matrices."""

from __future__ import annotations

from typing import Any

import torch
from art.estimators.certification.interval import PyTorchIntervalConv2D
from torch.nn import functional


class ConvolvedIntervals(PyTorchIntervalConv2D):
    """ART's interval convolution with the same bounds from two convolutions, of centres and radii: nothing unrolled."""

    def convert_to_dense(self, device: Any) -> tuple[torch.Tensor, None]:
        """Nothing: an empty matrix, and no bias."""
        return torch.empty(0), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bounds of the outputs: `(n, 2, channels, height, width)` in and out."""
        centre = self._convolve((x[:, 1] + x[:, 0]) / 2, self._kernel, self.bias_to_grad)
        radius = self._convolve((x[:, 1] - x[:, 0]) / 2, self._kernel.abs(), None)
        return torch.stack([centre - radius, centre + radius], dim=1)

    def concrete_forward(self, x: torch.Tensor) -> torch.Tensor:
        """The convolution itself, of images."""
        return self._convolve(x, self._kernel, self.bias_to_grad)

    @property
    def _kernel(self) -> torch.Tensor:
        kernel: torch.Tensor = self.conv.weight
        return kernel.reshape(self.out_channels, self.in_channels, *kernel.shape[2:])

    def _convolve(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.conv2d(x, kernel, bias, self.stride, self.padding, self.dilation)
