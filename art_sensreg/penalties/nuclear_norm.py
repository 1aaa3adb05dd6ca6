"""The nuclear norm of the differences between two batches of logits."""

from __future__ import annotations

import torch

from art_sensreg.utils.precision import at_least_float32


def nuclear_norm(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """
    Sum of the singular values of the matrix of differences between two batches of logits, `(n, C)` each, 0-d.

    Half precision is computed in float32. The examples mix: the norm of a batch is not the sum of its parts' norms.
    The gradient is `U V^T`; where a singular value is 0, one of its subgradients. NaN where a logit is not finite.

    Example:
    >>> from art_sensreg.penalties.nuclear_norm import nuclear_norm
    >>> float(nuclear_norm(torch.diag(torch.tensor([3.0, -4.0])), torch.zeros(2, 2)))
    7.0
    """
    with torch.autocast(logits.device.type, enabled=False):
        differences = at_least_float32(logits) - at_least_float32(others)
        finite = torch.isfinite(differences).all()
        # The decomposition of what is not finite would be an error of its own.
        known = torch.where(finite, differences, 0.0)
        return torch.where(finite, torch.linalg.svdvals(known).sum(), torch.nan)
