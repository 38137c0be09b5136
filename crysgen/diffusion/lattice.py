"""The cell in its Lie-algebra vector space (GemsDiff, Section 4.2 and Appendix B).

The paper writes lattice vectors as columns, ρ; here they are rows, `lattice` = ρᵀ. A cell is known
up to a rotation, so its logarithm is taken of the symmetric polar factor S = (ρᵀρ)^½, which is
real and smooth for every cell; of the nine coordinates six remain, those of π_3 to π_8.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from crysgen.matrices import symmetric_eigen

VOLUME_SCALE = 0.25 / math.sqrt(3)
"""λ of π_8 (Appendix B); the volume is exp(3 λ x_8)."""


def symmetric_to_vector(matrices: Tensor) -> Tensor:
    """Compute coordinates (..., 6) on π_3 to π_8 of symmetric matrices (..., 3, 3)."""
    third = matrices.diagonal(dim1=-2, dim2=-1).mean(-1)
    return torch.stack(
        [
            matrices[..., 0, 1],
            matrices[..., 0, 2],
            matrices[..., 1, 2],
            matrices[..., 0, 0] - third,
            third - matrices[..., 2, 2],
            third / VOLUME_SCALE,
        ],
        dim=-1,
    )


def vector_to_symmetric(vectors: Tensor) -> Tensor:
    """Make symmetric matrices (..., 3, 3) of coordinates (..., 6) on π_3 to π_8."""
    xy, xz, yz, first, second, volume = vectors.unbind(-1)
    third = VOLUME_SCALE * volume
    entries = [first + third, xy, xz, xy, second - first + third, yz, xz, yz, third - second]
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


class _SpectralFunction(torch.autograd.Function):
    """f(A) of symmetric matrices, with the gradient of Daleckii and Krein.

    Differentiating through eigenvectors divides by differences of eigenvalues, which are zero for
    every cubic cell; the divided differences of f have a limit there.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, name: str) -> Tensor:
        double = matrices.double()
        values, vectors = symmetric_eigen((double + double.mT) / 2)
        left, right = values[..., :, None], values[..., None, :]
        gap = left - right
        same = gap == 0
        width = torch.where(same, torch.ones_like(gap), gap)
        # log1p and expm1 keep their digits however close two eigenvalues are.
        if name == "log":
            results = values.log()
            divided = torch.where(same, 1 / right, torch.log1p(gap / right) / width)
        else:
            results = values.exp()
            divided = right.exp() * torch.where(same, torch.ones_like(gap), gap.expm1() / width)
        ctx.save_for_backward(vectors, divided)
        product = vectors @ (results[..., None] * vectors.mT)
        return ((product + product.mT) / 2).to(matrices.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        vectors, divided = ctx.saved_tensors
        gradient = gradients[0]
        double = gradient.double()
        inner = vectors.mT @ ((double + double.mT) / 2) @ vectors
        return (vectors @ (divided * inner) @ vectors.mT).to(gradient.dtype), None


def symmetric_log(matrices: Tensor) -> Tensor:
    """Compute logarithms of symmetric positive definite matrices (..., 3, 3), differentiably."""
    return _SpectralFunction.apply(matrices, "log")


def symmetric_exp(matrices: Tensor) -> Tensor:
    """Compute exponentials of symmetric matrices (..., 3, 3), differentiably."""
    return _SpectralFunction.apply(matrices, "exp")


def log_lattice(lattices: Tensor) -> Tensor:
    """Map cells (..., 3, 3) to vectors x^ρ (..., 6) of the Lie algebra.

    Half the logarithm of the metric tensor, which is that of the symmetric polar factor. In double
    precision inside: a metric has the square of its cell's condition number, and that of a noisy
    cell is more than single precision holds.
    """
    double = lattices.double()
    return symmetric_to_vector(symmetric_log(double @ double.mT) / 2).to(lattices.dtype)


def exp_lattice(vectors: Tensor) -> Tensor:
    """Map vectors x^ρ (..., 6) to cells (..., 3, 3): symmetric matrices, so rows are columns.

    With `log_lattice` it gives back the lattice parameters, not the orientation.
    """
    return symmetric_exp(vector_to_symmetric(vectors.double())).to(vectors.dtype)


def canonical_lattice(lattices: Tensor) -> Tensor:
    """Rotate cells (..., 3, 3) so that their matrices are symmetric."""
    return exp_lattice(log_lattice(lattices))


def lattice_parameters(lattices: Tensor) -> Tensor:
    """Compute lattice parameters (..., 6): a, b, c in Å, and α, β, γ in radians; differentiable.

    Cosines are kept a hair away from ±1, where the arc cosine has no derivative.
    """
    lengths = lattices.norm(dim=-1)
    units = lattices / lengths[..., None]
    pairs = ((1, 2), (0, 2), (0, 1))
    cosines = torch.stack([(units[..., i, :] * units[..., j, :]).sum(-1) for i, j in pairs], -1)
    limit = 1 - 4 * torch.finfo(lattices.dtype).eps
    return torch.cat([lengths, cosines.clamp(-limit, limit).acos()], dim=-1)


def lattice_from_parameters(parameters: Tensor, least_volume: float = 0.1) -> Tensor:
    """Make cells (..., 3, 3) of lattice parameters (..., 6), a along x and b in the plane of x, y.

    Args:
        parameters: a, b, c in Å, and α, β, γ in radians. Lengths below 0.1 Å are taken as that.
        least_volume: of the cell in units of a b c. Angles that no cell has, or none as flat, give
            a cell whose c stands as far from the plane of a and b as that.
    """
    lengths = parameters[..., :3].clamp_min(0.1)
    cosines = parameters[..., 3:].clamp(0.1, math.pi - 0.1).cos()
    (a, b, c), (alpha, beta, gamma) = lengths.unbind(-1), cosines.unbind(-1)
    sine = (1 - gamma.square()).clamp_min(1e-6).sqrt()
    along = (alpha - beta * gamma) / sine
    height = (1 - beta.square() - along.square()).clamp_min(0).sqrt()
    height = torch.maximum(height, least_volume / sine)
    zero = torch.zeros_like(a)
    rows = [a, zero, zero, b * gamma, b * sine, zero, c * beta, c * along, c * height]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def normalize_lengths(lattices: Tensor, num_atoms: Tensor) -> Tensor:
    """Divide cells (B, 3, 3) by N^(1/3), so that sizes do not depend on the number of atoms."""
    return lattices / num_atoms.to(lattices).pow(1 / 3)[..., None, None]


def restore_lengths(lattices: Tensor, num_atoms: Tensor) -> Tensor:
    """Undo `normalize_lengths`."""
    return lattices * num_atoms.to(lattices).pow(1 / 3)[..., None, None]


def niggli_reduce(
    lattices: NDArray[np.float64], tolerance: float = 1e-5
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Reduce lattices to right-handed Niggli cells, by spglib.

    Args:
        lattices: (B, 3, 3) rows in Å.
        tolerance: of spglib, in Å.

    Returns:
        Reduced lattices (B, 3, 3), and the integer matrices P (B, 3, 3) of determinant ±1 with
        `reduced = P @ lattice`; fractional coordinates become `frac @ inv(P)`.

    Raises:
        ValueError: if a lattice can't be reduced (a volume of zero).
    """
    reduced = np.empty_like(lattices)
    transforms = np.empty(lattices.shape, dtype=np.int64)
    for i, lattice in enumerate(lattices):
        transform = _niggli_transform(lattice, tolerance)
        if transform is None:
            raise ValueError(f"lattice {i} has no Niggli cell")
        transforms[i], reduced[i] = transform, transform @ lattice
    return reduced, transforms


def _niggli_transform(lattice: NDArray[np.float64], tolerance: float) -> NDArray[np.int64] | None:
    """Find the integer transform to a right-handed Niggli cell; None if there is no such cell."""
    from crysmetrics.symmetry import niggli_lattice

    if _is_flat(lattice):
        return None
    # The steps go in circles where a tie is missed by just the tolerance.
    for eps in (tolerance, 10 * tolerance, 0.1 * tolerance, 100 * tolerance, 0.01 * tolerance):
        found = niggli_lattice(lattice, eps)
        if found is not None:
            transform = np.rint(found @ np.linalg.inv(lattice)).astype(np.int64)
            if round(abs(float(np.linalg.det(transform)))) == 1:
                return transform if np.linalg.det(transform @ lattice) > 0 else -transform
    return None


def _is_flat(lattice: NDArray[np.float64]) -> bool:
    """Tell whether the volume is zero, to double precision."""
    lengths = np.linalg.norm(lattice, axis=1)
    return not abs(np.linalg.det(lattice)) > 1e-12 * lengths.prod()
