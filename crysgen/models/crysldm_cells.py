"""Cells as CrysLDM's networks see them: matrices that turn with crystals, or invariant vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from crysgen.diffusion.cells import LogCells
from crysgen.diffusion.lattice import normalize_lengths, restore_lengths
from crysgen.matrices import determinants
from crysgen.networks.cspnet import combine_rows, gram_entries


class CellForm(Protocol):
    """Cells (B, R, C) in units of the model; latent cells and their noise have the same form."""

    shape: tuple[int, int]
    """(R, C)."""

    def encode(self, lattices: Tensor, num_atoms: Tensor) -> Tensor:
        """Bring cells (B, 3, 3) in Å with (B,) atoms to the form (B, R, C)."""
        ...

    def decode(self, cells: Tensor, num_atoms: Tensor) -> Tensor:
        """Return right-handed cells (B, 3, 3) in Å of (B, R, C)."""
        ...

    def invariants(self, cells: Tensor) -> Tensor:
        """Compute six numbers (B, 6) that say all but how a cell is turned."""
        ...

    def change(self, numbers: Tensor, cells: Tensor) -> Tensor:
        """Make of invariant numbers (B, R C) a change (B, R, C) of cells, turned as they are."""
        ...

    def spread(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation (R, C) of cells (B, R, C), the same in a turned B."""
        ...


class MatrixCells(nn.Module):
    """Rows of lattice vectors, as in the paper.

    Args:
        scale: root mean square of entries of the data's cells divided by N^(1/3), in Å.
    """

    shape = (3, 3)

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def encode(self, lattices: Tensor, num_atoms: Tensor) -> Tensor:
        """See `CellForm`."""
        return normalize_lengths(lattices, num_atoms) / self.scale

    def decode(self, cells: Tensor, num_atoms: Tensor) -> Tensor:
        """See `CellForm`."""
        lattices = self.scale * restore_lengths(cells.double(), num_atoms)
        # The mirror image -L of a left-handed cell is as likely, and has the same Gram matrix.
        return torch.where(determinants(lattices)[:, None, None] < 0, -lattices, lattices)

    def invariants(self, cells: Tensor) -> Tensor:
        """See `CellForm`: entries of the Gram matrix."""
        return gram_entries(cells)

    def change(self, numbers: Tensor, cells: Tensor) -> Tensor:
        """See `CellForm`: M L (Eq. 15)."""
        return combine_rows(numbers.unflatten(-1, self.shape), cells)

    def spread(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """See `CellForm`: any direction is as likely, so that the mean is zero."""
        size = cells.square().mean().sqrt()
        return torch.zeros_like(cells[0]), size.expand(self.shape).clone()


class VectorCells(nn.Module):
    """Standardised logarithms of cells, one row of six numbers (`crysgen.diffusion.cells`).

    Args:
        mean: (6,) of the data's logarithms.
        std: (6,) of the same.
    """

    shape = (1, 6)

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.space = LogCells(mean, std, standardize=True)

    def encode(self, lattices: Tensor, num_atoms: Tensor) -> Tensor:
        """See `CellForm`."""
        return self.space.encode(lattices, num_atoms)[:, None]

    def decode(self, cells: Tensor, num_atoms: Tensor) -> Tensor:
        """See `CellForm`."""
        return self.space.decode(cells[:, 0].double(), num_atoms)

    def invariants(self, cells: Tensor) -> Tensor:
        """See `CellForm`: the vector itself."""
        return cells[:, 0]

    def change(self, numbers: Tensor, cells: Tensor) -> Tensor:
        """See `CellForm`: the numbers themselves."""
        return numbers.unflatten(-1, self.shape)

    def spread(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """See `CellForm`."""
        return cells.mean(0), cells.std(0, correction=0).clamp_min(1e-3)
