"""`Batch`: crystals as padded tensors, the form in which networks and processes see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysmetrics.io import Crystals


@dataclass(frozen=True, eq=False)
class Batch:
    """B crystals of at most N atoms each; the rows of shorter ones end in padding.

    Padded, because attention and neighbour search are dense products, and because static shapes
    are what compiled code and CUDA graphs want. Batches of similar sizes keep the padding small.

    Attributes:
        atomic_numbers: (B, N) int64; 0 is padding.
        frac_coords: (B, N, 3) in [0, 1).
        lattices: (B, 3, 3) in Å, lattice vectors as rows.
        properties: numbers (B,) by name, such as an energy to predict.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    lattices: Tensor
    properties: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def mask(self) -> Tensor:
        """(B, N) bool: where atoms are."""
        return self.atomic_numbers > 0

    @property
    def num_atoms(self) -> Tensor:
        """(B,) int64."""
        return self.mask.sum(1)

    def __len__(self) -> int:
        return len(self.lattices)

    def to(self, device: str | torch.device, dtype: torch.dtype | None = None) -> Batch:
        """Copy to another device, with numbers in another precision."""
        return Batch(
            self.atomic_numbers.to(device),
            self.frac_coords.to(device, dtype),
            self.lattices.to(device, dtype),
            {name: values.to(device, dtype) for name, values in self.properties.items()},
        )

    def __getitem__(self, rows: Tensor) -> Batch:
        """Select the crystals of these rows, padded as before."""
        return Batch(
            self.atomic_numbers[rows],
            self.frac_coords[rows],
            self.lattices[rows],
            {name: values[rows] for name, values in self.properties.items()},
        )

    def with_geometry(self, frac_coords: Tensor, lattices: Tensor) -> Batch:
        """Return the same atoms at other positions in other cells."""
        return replace(self, frac_coords=frac_coords, lattices=lattices)

    @classmethod
    def from_crystals(
        cls,
        crystals: Crystals,
        dtype: torch.dtype | None = None,
        properties: Sequence[str] = (),
        partial: Sequence[str] = (),
    ) -> Batch:
        """Pack all structures of `crystals`, padded to the largest.

        Args:
            crystals: any.
            dtype: of all numbers; torch's default if None.
            properties: names of numeric properties to take along.
            partial: names of those that crystals may lack, where they are NaN.

        Raises:
            UserError: if a property is missing, or not a number for every crystal.
        """
        counts, offsets = crystals.num_atoms, crystals.offsets
        size = int(counts.max(initial=0))
        numbers = np.zeros((len(crystals), size), dtype=np.int64)
        frac = np.zeros((len(crystals), size, 3))
        rows = crystals.structure_index
        columns = np.arange(len(rows)) - offsets[:-1][rows]
        numbers[rows, columns] = crystals.atomic_numbers
        frac[rows, columns] = crystals.frac_coords
        real = dtype or torch.get_default_dtype()
        return cls(
            torch.from_numpy(numbers),
            torch.from_numpy(frac).to(real),
            torch.tensor(crystals.lattices, dtype=real),
            {name: torch.tensor(_numbers(crystals, name), dtype=real) for name in properties}
            | {name: torch.tensor(_known(crystals, name), dtype=real) for name in partial},
        )

    def finite_crystals(self, ids: Sequence[str]) -> tuple[Crystals, np.ndarray]:
        """Return the crystals whose numbers are all finite: those of cells that ran away are not.

        Args:
            ids: one for each crystal of the batch.

        Returns:
            The crystals, and the row of each (K,) in the batch.
        """
        positions = (self.frac_coords.isfinite().all(-1) | ~self.mask).all(1)
        rows = (positions & self.lattices.isfinite().flatten(1).all(1)).nonzero()[:, 0]
        crystals = self[rows].to_crystals([ids[row] for row in rows.tolist()])
        return crystals, rows.cpu().numpy()

    def to_crystals(self, ids: Sequence[str] | None = None) -> Crystals:
        """Return the crystals without padding, in double precision.

        Args:
            ids: one for each crystal; their positions by default.

        Raises:
            ValueError: if there is a number that is not finite; see `finite_crystals`.
        """
        from crysmetrics.io import Crystals

        mask = self.mask.cpu().numpy()
        return Crystals(
            self.atomic_numbers.cpu().numpy()[mask],
            self.frac_coords.detach().double().cpu().numpy()[mask],
            self.lattices.detach().double().cpu().numpy(),
            mask.sum(1),
            tuple(ids) if ids is not None else tuple(str(i) for i in range(len(mask))),
        )


def _numbers(crystals: Crystals, name: str) -> np.ndarray:
    values = crystals.properties.get(name)
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if values is None or not np.isfinite(numbers).all():
        raise UserError(f"The model needs the property {name} of every crystal, as a number.")
    return numbers


def _known(crystals: Crystals, name: str) -> np.ndarray:
    """Return a property (B,); NaN where a crystal lacks it, or where it is no number."""
    values = crystals.properties.get(name)
    if values is None:
        return np.full(len(crystals), np.nan)
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([_number(value) for value in values])


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def pad_atomic_numbers(compositions: Sequence[np.ndarray | Sequence[int]]) -> Tensor:
    """Pad B lists of atomic numbers with 0 to (B, N)."""
    size = max((len(c) for c in compositions), default=0)
    padded = np.zeros((len(compositions), size), dtype=np.int64)
    for row, atoms in zip(padded, compositions, strict=True):
        row[: len(atoms)] = atoms
    return torch.from_numpy(padded)
