"""Which displacements of sites, and which strains, the space groups of crystals allow."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from crysgen.matrices import inverses


class Geometry(NamedTuple):
    """What B crystals allow their M sites and their lattices.

    Attributes:
        sites: (B, M, 3, 3) projectors of sites' Cartesian displacements.
        turns: (B, G, 3, 3) rotations of Cartesian space.
        weights: (B, G) of them in means.
    """

    sites: Tensor
    turns: Tensor
    weights: Tensor

    @classmethod
    def of(
        cls, projectors: Tensor, rotations: Tensor, weights: Tensor, lattices: Tensor
    ) -> Geometry:
        """Turn projectors (B, M, 3, 3) and rotations (B, G, 3, 3) into those of Cartesian space."""
        columns = lattices.mT[:, None]
        back = inverses(lattices).mT[:, None]
        return cls(
            columns @ projectors.to(lattices) @ back,
            columns @ rotations @ back,
            weights.to(lattices),
        )

    def strain(self, values: Tensor) -> Tensor:
        """Project symmetric matrices (B, 3, 3) onto strains that keep the symmetry."""
        images = self.turns @ values[:, None] @ self.turns.mT
        return (images * self.weights[..., None, None]).sum(1)


def turned(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Multiply columns (..., 3) by matrices (..., 3, 3)."""
    return (matrices @ vectors[..., None]).squeeze(-1)


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """Select (B, K, ...) of values (B, N, ...) by index (B, K)."""
    shape = (*index.shape, *(1,) * (values.ndim - 2))
    return values.gather(1, index.reshape(shape).expand(-1, -1, *values.shape[2:]))
