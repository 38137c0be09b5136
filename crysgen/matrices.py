"""Algebra of 3 x 3 matrices by closed forms, which never make a GPU wait.

The solvers of `torch.linalg` ask the device whether a matrix was singular, so a host has to wait
for it, and a CUDA graph can't hold them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def determinants(matrices: Tensor) -> Tensor:
    """Compute the determinants (...) of matrices (..., 3, 3)."""
    a, b, c = matrices.unbind(-2)
    return (a * b.cross(c, dim=-1)).sum(-1)


def inverses(matrices: Tensor) -> Tensor:
    """Compute the inverses (..., 3, 3) of matrices (..., 3, 3)."""
    a, b, c = matrices.unbind(-2)
    faces = torch.stack([b.cross(c, dim=-1), c.cross(a, dim=-1), a.cross(b, dim=-1)], -1)
    return faces / (a * faces[..., 0]).sum(-1)[..., None, None]


def symmetric_eigen(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues (..., 3) and eigenvectors, as columns (..., 3, 3), in any order.

    Args:
        matrices: (..., 3, 3) symmetric; those with numbers that are not finite have eigenvalues
            that are no numbers.
    """
    if matrices.device.type == "cpu":
        # LAPACK fails for a whole batch if one matrix is not finite.
        finite = matrices.isfinite().all(-1).all(-1)[..., None]
        one = torch.eye(3, dtype=matrices.dtype)
        values, vectors = torch.linalg.eigh(torch.where(finite[..., None], matrices, one))
        return torch.where(finite, values, torch.nan), vectors
    return closed_form_eigen(matrices)


def closed_form_eigen(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what `symmetric_eigen` does in some 70 operations of any device.

    The eigenvalue that is furthest from the other two is a cosine, and its vector a cross product,
    both well conditioned; what is left is one rotation in the plane of the other two.
    """
    mean = matrices.diagonal(dim1=-2, dim2=-1).mean(-1)
    one = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    rest = matrices - mean[..., None, None] * one
    scale = (rest.square().sum((-2, -1)) / 6).sqrt()
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    unit = rest / safe[..., None, None]
    half = (determinants(unit) / 2).clamp(-1, 1)
    apart = torch.copysign(2 * (half.abs().acos() / 3).cos(), half)
    rows = unit - apart[..., None, None] * one
    # Of the three cross products of rows, all along the vector, the longest.
    normals = rows.cross(rows.roll(-1, -2), dim=-1)
    longest = normals.square().sum(-1).argmax(-1)[..., None, None].expand(*mean.shape, 1, 3)
    first = normals.gather(-2, longest).squeeze(-2)
    first = first / first.norm(dim=-1, keepdim=True)
    second, third = _perpendicular(first)
    plane = torch.stack([second, third], -1)
    block = plane.mT @ unit @ plane
    low, high, mixed = block[..., 0, 0], block[..., 1, 1], block[..., 0, 1]
    gap, twice = high - low, 2 * mixed
    length = (gap.abs() + torch.hypot(gap, twice)).clamp_min(torch.finfo(gap.dtype).tiny)
    tangent = twice / torch.copysign(length, gap)
    cosine = (tangent.square() + 1).rsqrt()
    sine = tangent * cosine
    second, third = (
        cosine[..., None] * second - sine[..., None] * third,
        sine[..., None] * second + cosine[..., None] * third,
    )
    own = (first * (unit @ first[..., None]).squeeze(-1)).sum(-1)
    values = torch.stack([own, low - tangent * mixed, high + tangent * mixed], -1)
    vectors = torch.stack([first, second, third], -1)
    return mean[..., None] + scale[..., None] * values, vectors


def _perpendicular(units: Tensor) -> tuple[Tensor, Tensor]:
    """Complete unit vectors (..., 3) to orthonormal bases (Duff et al., JCGT 6, 1, 2017)."""
    x, y, z = units.unbind(-1)
    sign = torch.copysign(torch.ones_like(z), z)
    a = -1 / (sign + z)
    b = x * y * a
    return (
        torch.stack([1 + sign * x * x * a, sign * b, -sign * x], -1),
        torch.stack([b, sign + y * y * a, -y], -1),
    )
