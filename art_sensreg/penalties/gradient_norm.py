"""The norm of the input gradient of the loss, as a penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from art_sensreg.penalties.inputs import check_batch
from art_sensreg.penalties.loss_gradients import cross_entropy, loss_gradients
from art_sensreg.utils import check_choice, check_number, outside_inference_mode, python_numbers
from art_sensreg.utils.autograd import safe_root

GRADIENT_NORMS = ("l1", "l2", "squared_l2")


@dataclass(frozen=True, kw_only=True)
class GradientNormPenalty:
    """
    Mean norm of the input gradients of the cross-entropy, one for each image; differentiated a second time.

    With the weight `eps` the L1 norm is, to first order, what the worst perturbation of L-inf size `eps` adds to the
    loss; the L2 norm is the same for L2. It works with smooth activations (SiLU, GELU): those of ReLU networks have
    kinks, which gradients do not see.

    | Paper link: https://arxiv.org/abs/2409.20139 (Rodriguez-Munoz, Wang, Torralba 2024: `l1`)
    | Paper link: https://arxiv.org/abs/1711.09404 (Ross and Doshi-Velez 2018: `squared_l2`)

    :param weight: Factor in the objective, at least 0.
    :param norm: `l1`, `l2` or `squared_l2`.
    :raises ValueError: If a setting is out of range.
    :raises TypeError: If a setting has the wrong type.

    Example:
    >>> from art_sensreg.penalties import GradientNormPenalty
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 3))
    >>> float(GradientNormPenalty()(model, torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1]))) > 0
    True
    """

    name: ClassVar[str] = "gradient_norm"
    double_backward: ClassVar[bool] = True

    weight: float = 0.1
    norm: str = "l1"

    def __post_init__(self) -> None:
        python_numbers(self)
        check_number("weight", self.weight, minimum=0.0)
        check_choice("norm", self.norm, GRADIENT_NORMS)

    @outside_inference_mode
    def __call__(self, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """
        Measure the penalty. The model keeps its mode; BatchNorm's running statistics do not change.

        :param model: Module from `(n, ...)` inputs to `(n, C)` logits.
        :param x: Batch of inputs, `(n, ...)`, floating point.
        :param y: Class indices `(n,)`, or class probabilities `(n, C)`.
        :return: Unweighted value, a 0-d tensor, differentiable with respect to the model's parameters.
        """
        check_batch(model, x)
        graph = torch.is_grad_enabled()
        flat = loss_gradients(model, x, lambda logits: cross_entropy(logits, y), graph).flatten(1)
        if self.norm == "l1":
            return flat.abs().sum(1).mean()
        squares = flat.pow(2).sum(1)
        return (squares if self.norm == "squared_l2" else safe_root(squares)).mean()
