"""
A pytest plugin that trains as if on another machine:
`ART_SENSREG_ROUNDING=1 python -m pytest -p tests.support.rounding`.

Another instruction set rounds differently, and after a few hundred steps the weights are those of another network. The
plugin changes every gradient by one part in a million before the optimizer sees it, as a function of the gradient
alone: what must be equal bit for bit (a resumed run, for one) stays equal, and every bound on a trained network meets a
network that it was not chosen for. Fixed weights are changed by as much, so that attacks on them round differently too.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.support import fixed_weights

SIZE = 1e-6


def pytest_configure() -> None:
    number = float(os.environ.get("ART_SENSREG_ROUNDING", "1"))
    load = fixed_weights.load_file

    @torch.no_grad()
    def change(values: torch.Tensor) -> None:
        values.mul_(1 + SIZE * torch.sin(1e4 * values + number))

    def before_step(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    change(parameter.grad)

    def changed_file(path: Any) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = load(path)
        for values in weights.values():
            change(values)
        return weights

    register_optimizer_step_pre_hook(before_step)
    fixed_weights.load_file = changed_file
