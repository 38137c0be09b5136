"""Steps of PairFormer that move much memory: one pass each on a GPU (Triton), else PyTorch's own.

What they cost is the reading and writing of pairs. Each of them reads its input once and writes its
result once, forward and backward; sums are in a fixed order, so that the same input gives the same
numbers every time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu


def normalised(values: Tensor, eps: float) -> Tensor:
    """Normalise the last axis to mean 0 and variance 1, in the precision of the values.

    Args:
        values: (..., P).
        eps: added to the variance.
    """
    if _kernels(values) is not None:
        found: Tensor = _Normalised.apply(values, eps)  # type: ignore[no-untyped-call]
        return found
    with torch.autocast(values.device.type, enabled=False):
        return layer_norm(values, values.shape[-1:], eps=eps)


def gated(update: Tensor, ends: Tensor) -> Tensor:
    """Add to each pair what its two atoms say, and gate the sum: x sigmoid(x).

    Args:
        update: (B, N, N, W) of pairs.
        ends: (B, N, 2 W): for pairs of which the atom is the first, then the second.
    """
    if _kernels(update) is not None:
        found: Tensor = _Gated.apply(update, ends)  # type: ignore[no-untyped-call]
        return found
    first, second = ends.chunk(2, -1)
    return silu(update + first[:, :, None] + second[:, None])


def triangle_sides(
    found: Tensor, constant: Tensor, factors: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Make the two sides of triangles, and what attention adds, of numbers about each pair.

    Args:
        found: (2 T + H, B, N, N).
        constant: (2 T,) added to the sides before their gate.
        factors: (B, N) of the left sides, by their second atom.
        hidden: (B, N) added for attention, by the second atom.

    Returns:
        (T, B, N, N) left and right sides; (B, H, N, N) for attention.
    """
    if _kernels(found) is not None:
        sides: tuple[Tensor, Tensor, Tensor] = _TriangleSides.apply(  # type: ignore[no-untyped-call]
            found, constant, factors, hidden
        )
        return sides
    width = len(constant) // 2
    left, right, bias = found.split([width, width, len(found) - 2 * width])
    of_left, of_right = constant.to(found)[:, None, None, None].chunk(2)
    left = silu(left + of_left) * factors.to(found)[:, None]
    return left, silu(right + of_right), bias.transpose(0, 1) + hidden.to(found)[:, None, None]


@cache
def _imported() -> Any:
    try:
        from crysgen.networks import triton_kernels
    except ImportError:
        return None
    return triton_kernels


def _kernels(values: Tensor) -> Any:
    """Return the kernels if they can be had for such values."""
    if not values.is_cuda or torch.compiler.is_compiling():
        return None
    return _imported()


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, eps: float) -> Tensor:
        values = values.contiguous()
        found, scales = _imported().normalise(values, eps)
        ctx.save_for_backward(found, scales)
        return found  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        found, scales = ctx.saved_tensors
        return _imported().normalise_backward(gradient.contiguous(), found, scales), None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, update: Tensor, ends: Tensor) -> Tensor:
        update, ends = update.contiguous(), ends.contiguous()
        ctx.save_for_backward(update, ends)
        return _imported().gate(update, ends)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return _imported().gate_backward(gradient.contiguous(), *ctx.saved_tensors)  # type: ignore[no-any-return]


class _TriangleSides(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, found: Tensor, constant: Tensor, factors: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        found, constant = found.contiguous(), constant.float().contiguous()
        factors, hidden = factors.float().contiguous(), hidden.float().contiguous()
        ctx.save_for_backward(found, constant, factors)
        return _imported().sides(found, constant, factors, hidden)  # type: ignore[no-any-return]

    @staticmethod
    def backward(
        ctx: Any, left: Tensor, right: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor, None, None]:
        gradients = left.contiguous(), right.contiguous(), bias.contiguous()
        of_found, of_constant = _imported().sides_backward(*gradients, *ctx.saved_tensors)
        return of_found, of_constant, None, None
