"""Layer norms without factors, in the precision of what is normalised.

On a GPU with Triton each is one pass over memory. PyTorch's kernels, which give a row of so few
channels a block of its own, take five times as long there, a sixth of PairFormer's step.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm


def normalised(values: Tensor, eps: float) -> Tensor:
    """Normalise the last axis of values (..., P) to mean 0 and variance 1.

    Args:
        values: of any precision, which the result has as well.
        eps: added to the variance.
    """
    if values.is_cuda and not torch.compiler.is_compiling() and _kernels() is not None:
        found: Tensor = _Normalised.apply(values, eps)
        return found
    with torch.autocast(values.device.type, enabled=False):
        return layer_norm(values, values.shape[-1:], eps=eps)


@cache
def _kernels() -> Any:
    try:
        from crysgen.networks import triton_norm
    except ImportError:
        return None
    return triton_norm


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, eps: float) -> Tensor:
        found, scales = _kernels().normalise(values.contiguous(), eps)
        ctx.save_for_backward(found, scales)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        found, scales = ctx.saved_tensors
        return _kernels().normalise_backward(gradient.contiguous(), found, scales), None
