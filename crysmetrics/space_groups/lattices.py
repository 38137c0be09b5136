"""Lattices under rotations: which metrics keep a symmetry, and the nearest one that does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PRIMITIVE_VECTORS = {
    "P": np.eye(3),
    "A": np.array([[2, 0, 0], [0, 1, -1], [0, 1, 1]]) / 2,
    "C": np.array([[1, -1, 0], [1, 1, 0], [0, 0, 2]]) / 2,
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}
"""Primitive vectors (rows) in terms of those of a standard cell, by kind of centring."""


def metric_basis(rotations: NDArray[np.int64]) -> NDArray[np.float64]:
    """Find a basis of the metric tensors that rotations leave as they are.

    A metric G = L Lᵀ (L: rows in Å) belongs to a lattice of the group if Rᵀ G R = G for each
    rotation R, which acts on columns of fractional coordinates.

    Args:
        rotations: (m, 3, 3), a group.

    Returns:
        (d, 3, 3) symmetric matrices, orthonormal under the Frobenius product; d is 1 for cubic
        groups, 2 for hexagonal, trigonal and tetragonal, 3 for orthorhombic, 4 for monoclinic and
        6 for triclinic ones.
    """
    basis = np.zeros((6, 3, 3))
    for k, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        basis[k, i, j] = basis[k, j, i] = 1 if i == j else np.sqrt(0.5)
    images = symmetric_metric(basis, rotations).reshape(6, 9)
    values, vectors = np.linalg.svd(images)[1:]
    return vectors[: int((values > 1e-9).sum())].reshape(-1, 3, 3)


def symmetric_metric(
    metrics: NDArray[np.float64], rotations: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Average metric tensors (..., 3, 3) over rotations (m, 3, 3), a group.

    The mean is positive definite where the metric is, and the same where it has the symmetry.
    """
    r = rotations.astype(np.float64)
    return np.einsum("mji,...jk,mkl->...il", r, metrics, r) / len(r)


def symmetric_lattice(
    lattice: NDArray[np.float64], rotations: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Give a lattice the symmetry of rotations, without turning it.

    Args:
        lattice: (..., 3, 3) rows in Å, not flat.
        rotations: (m, 3, 3), a group.

    Returns:
        (..., 3, 3) rows in Å whose metric is the mean over the group: sqrt(G') sqrt(G)⁻¹ L. A
        lattice of the symmetry comes back as it was.
    """
    metric = lattice @ np.swapaxes(lattice, -1, -2)
    # Both roots are symmetric, so that the orthogonal factor of L = sqrt(G) U stays.
    root = _root(symmetric_metric(metric, rotations))
    return root @ np.linalg.solve(_root(metric), lattice)


def _root(metrics: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(metrics)
    return (vectors * np.sqrt(values)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
