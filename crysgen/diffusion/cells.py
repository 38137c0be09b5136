"""Vector spaces in which cells are noised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from crysgen.diffusion.lattice import (
    canonical_lattice,
    exp_lattice,
    log_lattice,
    normalize_lengths,
    restore_lengths,
)


class CellSpace(Protocol):
    """A vector space for cells whose lengths are divided by N^(1/3)."""

    dimensions: int
    width: float
    """Norm of the logarithm of the deformation that a vector of length 1 stands for."""

    def encode(self, lattices: Tensor, num_atoms: Tensor) -> Tensor:
        """Map cells (B, 3, 3) in Å with (B,) atoms to vectors (B, D)."""
        ...

    def decode(self, vectors: Tensor, num_atoms: Tensor) -> Tensor:
        """Map vectors (B, D) to cells (B, 3, 3) in Å, in a standard orientation."""
        ...

    def start_mean(self) -> Tensor:
        """Return the mean (D,) of the data's vectors: the centre of noise that keeps a signal."""
        ...

    def start_variance(self) -> Tensor:
        """Return the variance (D,) of the data's vectors."""
        ...


class LogCells(nn.Module):
    """x^ρ of Section 4.2, six numbers; as they are, or standardised.

    Args:
        mean: (6,) of the data's x^ρ.
        std: (6,) of the data's x^ρ.
        standardize: whether mean and standard deviation are taken out, so that the noise is as
            wide as the data. In the paper it is not: shapes of real cells vary by 0.2, and noise of
            1 makes cells that no network can say much about.
    """

    dimensions = 6
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], standardize: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64), persistent=False)
        self.standardize = standardize
        self.width = float(self.std[:5].mean()) if standardize else 1.0

    def encode(self, lattices: Tensor, num_atoms: Tensor) -> Tensor:
        """See `CellSpace`."""
        vectors = log_lattice(normalize_lengths(lattices, num_atoms))
        if not self.standardize:
            return vectors
        return (vectors - self.mean.to(vectors)) / self.std.to(vectors)

    def decode(self, vectors: Tensor, num_atoms: Tensor) -> Tensor:
        """See `CellSpace`."""
        if self.standardize:
            vectors = vectors * self.std.to(vectors) + self.mean.to(vectors)
        return restore_lengths(exp_lattice(vectors), num_atoms)

    def start_mean(self) -> Tensor:
        """See `CellSpace`."""
        return torch.zeros_like(self.mean) if self.standardize else self.mean

    def start_variance(self) -> Tensor:
        """See `CellSpace`."""
        return torch.ones_like(self.std) if self.standardize else self.std.square()


class RawCells(nn.Module):
    """The nine entries of the cell itself: the ablation "w/o lattice vector space" of Table 4.

    Args:
        mean: (9,) of the data's cells in their standard orientation.
        std: (9,) of the same.
    """

    dimensions = 9
    width = 1.0
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64), persistent=False)

    def encode(self, lattices: Tensor, num_atoms: Tensor) -> Tensor:
        """See `CellSpace`."""
        return canonical_lattice(normalize_lengths(lattices, num_atoms)).flatten(1)

    def decode(self, vectors: Tensor, num_atoms: Tensor) -> Tensor:
        """See `CellSpace`."""
        return restore_lengths(vectors.unflatten(1, (3, 3)), num_atoms)

    def start_mean(self) -> Tensor:
        """See `CellSpace`."""
        return self.mean

    def start_variance(self) -> Tensor:
        """See `CellSpace`."""
        return self.std.square()
