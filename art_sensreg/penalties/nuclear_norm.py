"""The nuclear norm of the differences between two batches of logits."""

from __future__ import annotations

import math
from typing import Any

import torch

from art_sensreg.utils.precision import at_least_float32


def nuclear_norm(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """
    Sum of the singular values of the matrix of differences between two batches of logits, `(n, C)` each, 0-d.

    Half precision is computed in float32. The examples mix: the norm of a batch is not the sum of its parts' norms.
    The gradient is `U V^T` of the singular values above 0, the smallest subgradient, where they repeat or vanish too;
    it cannot be differentiated again. NaN where a logit is not finite.

    Example:
    >>> from art_sensreg.penalties.nuclear_norm import nuclear_norm
    >>> float(nuclear_norm(torch.diag(torch.tensor([3.0, -4.0])), torch.zeros(2, 2)))
    7.0
    """
    differences = at_least_float32(logits) - at_least_float32(others)
    rows = differences if len(differences) >= differences.shape[1] else differences.T
    return root_gram_trace(rows, mean_gram(rows)) * math.sqrt(len(rows))


def mean_gram(rows: torch.Tensor) -> torch.Tensor:
    """`D^T D / n` of the rows `(n, m)` of D, in float64 and without a graph."""
    wide = rows.detach().double()
    return wide.T @ wide / len(wide)


def root_gram_trace(rows: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """
    The share of some rows in `tr sqrt(G) = ||D||_* / sqrt(n)`, with `G = D^T D / n` the gram matrix of all rows.

    Of all rows it is that norm, which hardly depends on n if they are alike; the mean over the parts of D (weighted by
    their numbers of rows) is it too, with its gradient: so processes need to exchange nothing but G.
    """
    share: torch.Tensor = _RootGramTrace.apply(at_least_float32(rows), gram)
    return share


class _RootGramTrace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
        wide = rows.double()
        # LAPACK fails on NaN; here the loss becomes NaN, and the check of the loss says which term it was.
        values, vectors = torch.linalg.eigh(torch.where(gram.isfinite().all(), gram, 0.0))
        positive = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        inverse_roots = torch.where(positive, torch.where(positive, values, 1.0).rsqrt(), 0.0)
        slope = wide @ (vectors * inverse_roots) @ vectors.T / len(wide)
        ctx.save_for_backward(slope.to(rows.dtype))
        share: torch.Tensor = (slope * wide).sum().to(rows.dtype)
        return share

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("The nuclear norm can be differentiated once, and not with `create_graph=True`.")
        (slope,) = ctx.saved_tensors
        return gradient * slope, None
