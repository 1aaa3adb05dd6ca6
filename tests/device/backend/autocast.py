"""Autocast on the emulated device: most of the operators of CUDA's lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from tests.device.backend.memory import NAME, aten, is_device

_LISTS = {
    "low": "conv1d conv2d conv3d convolution linear matmul mm addmm bmm baddbmm addbmm mv addmv addr prelu "
    "conv_transpose2d.input",
    "float32": "exp expm1 log log10 log2 log1p reciprocal rsqrt pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar "
    "softplus layer_norm native_layer_norm group_norm cosine_similarity nll_loss nll_loss_nd kl_div "
    "l1_loss smooth_l1_loss huber_loss mse_loss binary_cross_entropy_with_logits dist cdist logsumexp "
    "prod prod.dim_int softmax.int log_softmax.int cumsum cumprod sum sum.dim_IntList linalg_vector_norm "
    "norm.Scalar norm.ScalarOpt_dim acos asin cosh erfinv sinh tan soft_margin_loss multi_margin_loss",
    "promote": "addcdiv addcmul atan2 dot vdot index_put scatter_add tensordot cross",
}
_NO_CAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)


def autocast_kernels() -> Iterator[tuple[str, Callable[..., Any]]]:
    """The operators that cast their arguments, by name."""
    for kind, names in _LISTS.items():
        for name in names.split():
            packet, _, overload = name.partition(".")
            yield name, _cast_kernel(getattr(getattr(aten, packet), overload or "default"), kind)


def _castable(value: Any) -> bool:
    return is_device(value) and value.is_floating_point() and value.dtype is not torch.float64


def _cast_kernel(op: Any, kind: str) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_NO_CAST):
            target = torch.float32 if kind == "float32" else torch.get_autocast_dtype(NAME)
            if kind == "promote":
                kinds = {value.dtype for value in pytree.tree_leaves((args, kwargs)) if _castable(value)}
                target = torch.float32 if torch.float32 in kinds or len(kinds) > 1 else next(iter(kinds), target)

            def cast(value: Any) -> Any:
                return value.to(target) if _castable(value) and value.dtype is not target else value

            args, kwargs = pytree.tree_map(cast, (args, kwargs))
            return op(*args, **kwargs)

    return kernel
