"""JR, Jacobian regularisation: `L_JR = 1/2 ||J(x)||_F^2` of the logits, with three estimators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from art_sensreg.penalties.base import FusedPenalty
from art_sensreg.penalties.feature_sigma import FeatureSigma, as_sigma, noise_sizes
from art_sensreg.penalties.forward.inner_ascent import ClipValues
from art_sensreg.penalties.forward.noise import Randomness, draw_noise, draw_unit_sphere
from art_sensreg.penalties.inputs import Comparison, Sigma
from art_sensreg.penalties.nuclear_norm import mean_gram, root_gram_trace
from art_sensreg.utils import check_choice, check_count, check_flag
from art_sensreg.utils.autograd import safe_root
from art_sensreg.utils.precision import at_least_float32

ESTIMATORS = ("finite_difference", "projection", "exact")
NORMS = ("frobenius", "nuclear")


def exact_squared_norm(logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """
    `||J(x)||_F^2` of each example by C vector-Jacobian products: the oracle of the tests.

    `x` requires grad and is in the graph of `logits`, `(n, C)`, of which row i must depend on example i alone.
    """
    rows = []
    for index in range(logits.shape[1]):
        unit = torch.zeros_like(logits[:1], requires_grad=False)
        unit[:, index] = 1
        rows.append(_vjp_squared_norm(logits, x, unit.expand_as(logits)))
    return torch.stack(rows).sum(0)


def projected_squared_norm(
    logits: torch.Tensor, x: torch.Tensor, probes: int = 1, generator: Randomness = None
) -> torch.Tensor:
    """
    Estimate `||J(x)||_F^2` of each example by random projections, `(C / n) sum_k ||v_k^T J||^2`, `|v_k| = 1`.

    One probe has relative variance `2 (C rho - 1) / (C + 2)` with `G = J J^T`, `rho = tr(G^2) / tr(G)^2`.

    | Paper link: https://arxiv.org/abs/1908.02729 (Hoffman, Roberts, Yaida 2019, algorithm 1)
    """
    n, classes = logits.shape
    estimates = [_vjp_squared_norm(logits, x, draw_unit_sphere(n, classes, logits, generator)) for _ in range(probes)]
    return torch.stack(estimates).mean(0) * classes


def difference_squared_norm(noisy: torch.Tensor, clean: torch.Tensor, sigma: Sigma) -> torch.Tensor:
    """
    Estimate `||J(x)||_F^2` of each example by one finite difference, `||z(x + s*xi) - z(x)||^2 / s^2`.

    For small `s` and Gaussian noise the relative variance is `2 rho` (see :func:`projected_squared_norm`). At a finite
    `s` it sees kinks that derivatives cannot.
    """
    return (at_least_float32(noisy) - at_least_float32(clean)).pow(2).sum(1) / sigma**2


def _vjp_squared_norm(logits: torch.Tensor, x: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(logits, x, vectors, create_graph=True, materialize_grads=True)
    return gradient.flatten(1).pow(2).sum(1)


@dataclass(frozen=True, kw_only=True)
class JacobianPenalty(FusedPenalty):
    """
    Jacobian regularisation (JR): `1/2 ||J(x)||_F^2`, mean over the batch, `J = dz/dx` in the user's input units.

    | Paper link: https://arxiv.org/abs/1908.02729 (`projection`)
    | Paper link: https://arxiv.org/abs/1803.08680 (`squared=False`: Jakubovitz and Giryes 2018, as fine-tuning)

    :param weight: Factor in the objective, at least 0.
    :param estimator: `finite_difference` (no double backward), `projection` (Hoffman et al.), or `exact` (C products).
    :param probes: Random directions per step. When the noise is shared, that penalty's `probes` count instead.
    :param sigma: `s` of `finite_difference`, in input units; or an array with the size for each feature in its own
        unit, as for `SensitivityPenalty`: `1/2 sum_j (s_j / s)^2 ||dz/dx_j||^2`. None: use the noise of the objective's
        `SensitivityPenalty`, without an extra pass; if there is none, that is an error.
    :param squared: False penalises `||J(x)||_F` itself. The root is taken of the mean over the probes, so it is biased
        downwards at few of them: `E sqrt(q) < sqrt(E q)`.
    :param norm: `frobenius`, or `nuclear` (of `finite_difference` only): `1/2 (||D||_*)^2 / n` of the `n` rows
        `D_i = (z(x_i + s*xi_i) - z(x_i)) / s` of a batch; or, with `squared=False`, `||D||_* / sqrt(n)`, NuAT's up
        to a factor (Sriramanan et al. 2021). Rows along one direction count as with `frobenius`, along several more. A
        decomposition of `C x C` numbers makes the host wait for a GPU.
    :raises ValueError: If an option is unknown or out of range.
    :raises TypeError: If an option has the wrong type.

    Example:
    >>> from art_sensreg import JacobianPenalty
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = model.weight.fill_(1.0)
    >>> JacobianPenalty(estimator="exact")(model, torch.rand(5, 3)).item()
    3.0
    """

    name: ClassVar[str] = "jacobian"

    weight: float = 0.1
    estimator: str = "finite_difference"
    probes: int = 1
    sigma: float | np.ndarray | FeatureSigma | None = None
    squared: bool = True
    norm: str = "frobenius"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("estimator", self.estimator, ESTIMATORS)
        check_count("probes", self.probes)
        check_flag("squared", self.squared)
        check_choice("norm", self.norm, NORMS)
        if self.norm == "nuclear" and self.input_gradient:
            raise ValueError(f"`norm` is 'nuclear' with estimator={self.estimator!r}; expected 'finite_difference'.")
        if self.sigma is not None:
            object.__setattr__(self, "sigma", as_sigma(self.sigma))
            if self.input_gradient:
                raise ValueError(f"`sigma` is {self.sigma!r}; expected None with estimator={self.estimator!r}.")

    @property
    def input_gradient(self) -> bool:
        return self.estimator != "finite_difference"

    @property
    def assumes_independence(self) -> bool:
        return self.estimator == "exact"  # in `projection`, products with other examples' directions have mean 0

    @property
    def of_whole_batch(self) -> bool:
        return self.norm == "nuclear"

    @property
    def compares(self) -> bool:
        return self.estimator == "finite_difference"

    @property
    def shares_noise(self) -> bool:
        return self.estimator == "finite_difference" and self.sigma is None

    def branches(
        self, model: nn.Module, x: torch.Tensor, generator: Randomness, clip_values: ClipValues | None
    ) -> tuple[list[torch.Tensor], Sigma]:
        if self.sigma is None:
            return [], 1.0
        if not isinstance(self.sigma, FeatureSigma):
            alpha: Any = self.sigma
            return [torch.add(x, draw_noise(x, "gaussian", generator), alpha=alpha) for _ in range(self.probes)], alpha
        size, sigma = noise_sizes(self.sigma, x)
        return [torch.addcmul(x, draw_noise(x, "gaussian", generator), size) for _ in range(self.probes)], sigma

    def evaluate(self, compared: Comparison, generator: Randomness) -> torch.Tensor:
        branches = compared.branches
        clean = branches.logits[0]
        if self.norm == "nuclear":
            return self._nuclear(compared)
        if self.estimator == "finite_difference":
            others = [branches.logits[i] for i in compared.perturbed]
            estimates = [difference_squared_norm(z, clean[: len(z)], compared.sigma) for z in others]
            norms = torch.stack(estimates).mean(0)
        else:
            with branches.gradient.stopped():
                if self.estimator == "exact":
                    norms = exact_squared_norm(clean, branches.inputs[0])
                else:
                    norms = projected_squared_norm(clean, branches.inputs[0], self.probes, generator)
        return norms.mean() / 2 if self.squared else safe_root(norms).mean()

    def _nuclear(self, compared: Comparison) -> torch.Tensor:
        """The share of this process, whose mean over the processes is the value of the global batch."""
        clean, *others = [at_least_float32(compared.branches.logits[i]) for i in (0, *compared.perturbed)]
        rows = torch.cat([z - clean[: len(z)] for z in others]) / compared.sigma
        share = root_gram_trace(rows, compared.over_processes(mean_gram(rows)))
        if not self.squared:
            return share
        norm = compared.over_processes(share.detach())
        return norm * share - norm**2 / 2
