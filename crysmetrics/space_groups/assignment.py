"""Crystals as orbits: space group, Wyckoff letters and free coordinates, from any cell and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysmetrics.space_groups.groups import GRID, SpaceGroup, WyckoffPosition, space_group
from crysmetrics.space_groups.projection import NEAR_CELLS, Orbits
from crysmetrics.symmetry import (
    Cell,
    StandardCell,
    asymmetric_unit,
    conventional_cell,
    standard_cell,
)

_EXACT = 1e-3
"""Å within which the atoms of a symmetrised cell lie where their orbits have them."""


@dataclass(frozen=True, eq=False)
class OrbitCrystal:
    """A crystal as its orbits, in the standard setting of its space group.

    Attributes:
        space_group: of the crystal.
        lattice: (3, 3) conventional vectors as rows in Å.
        elements: (k,) atomic number of each orbit.
        positions: Wyckoff position of each orbit.
        parameters: (k, 3) values of x, y and z of each orbit; 0 where its position has none.
    """

    space_group: SpaceGroup
    lattice: NDArray[np.float64]
    elements: NDArray[np.int64]
    positions: tuple[WyckoffPosition, ...]
    parameters: NDArray[np.float64]

    def cell(self, basis: NDArray[np.float64] | None = None) -> Cell:
        """Place all atoms of a cell.

        Args:
            basis: (3, 3) vectors of the cell (rows) in terms of the conventional ones, which are
                the default; `SpaceGroup.primitive_basis`, say.
        """
        basis = np.eye(3) if basis is None else basis
        orbits = Orbits(self.space_group, self.positions, basis)
        numbers = np.repeat(self.elements, orbits.counts)
        return Cell(basis @ self.lattice, orbits.place(self.parameters), numbers)


def assign_orbits(cell: Cell, tolerance: float) -> OrbitCrystal:
    """Find space group, Wyckoff letters and free coordinates of a crystal in any cell.

    Of origins and axes that are alike (rutile has Ti on 2a or on 2b) it takes those of the
    conventional cell that moyo finds.

    Args:
        cell: the crystal, primitive or not.
        tolerance: Å within which symmetry is found; what is found is made exact.

    Raises:
        ValueError: if the symmetry found fits no positions, with the reason.
    """
    found = _standard(cell, tolerance)
    if found is None:
        group = space_group(1)
        positions = group.positions * len(cell.atomic_numbers)
        frac = cell.frac_coords - np.floor(cell.frac_coords)
        return OrbitCrystal(group, cell.lattice, cell.atomic_numbers, positions, frac)
    standard, unit = found
    return _in_orbits(standard, unit)


def assign_orbits_of(standard: StandardCell) -> OrbitCrystal:
    """Find Wyckoff letters and free coordinates of a crystal in the standard setting of a group.

    It may have more symmetry than that group.

    Args:
        standard: the crystal, exactly symmetric.

    Raises:
        ValueError: if it is not, or stands in another setting.
    """
    group = space_group(standard.space_group)
    unit = asymmetric_unit(standard.cell, standard.hall_number)
    if standard.hall_number != group.hall_number or unit is None:
        raise ValueError(f"The crystal does not obey space group {group.number} as it stands.")
    return _in_orbits(standard, unit)


def _in_orbits(
    standard: StandardCell, unit: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> OrbitCrystal:
    """Find the positions of orbits, given an atom of each (k,) and their sizes (k,)."""
    group = space_group(standard.space_group)
    placed = [
        _position_of(standard.cell.frac_coords[atom], size, group, standard.cell.lattice)
        for atom, size in zip(*unit, strict=True)
    ]
    return OrbitCrystal(
        group,
        standard.cell.lattice,
        standard.cell.atomic_numbers[unit[0]],
        tuple(position for position, _ in placed),
        np.array([parameters for _, parameters in placed]),
    )


def _standard(
    cell: Cell, tolerance: float
) -> tuple[StandardCell, tuple[NDArray[np.int64], NDArray[np.int64]]] | None:
    """Find the conventional cell in the standard setting, and its orbits; None without symmetry.

    Raises:
        ValueError: if there is none, with the reason.
    """
    try:
        found: StandardCell | None = conventional_cell(cell, tolerance)
    except ValueError:
        found = standard_cell(cell, tolerance)
    for _ in range(2):
        if found is None or found.space_group == 1:
            return None
        if found.hall_number == space_group(found.space_group).hall_number:
            unit = asymmetric_unit(found.cell, found.hall_number)
            if unit is not None:
                return found, unit
        # Another setting, or atoms that are not where its operations want them.
        found = standard_cell(found.cell, tolerance)
    raise ValueError("The symmetry found fits no standard setting.")


def _position_of(
    point: NDArray[np.float64], size: int, group: SpaceGroup, lattice: NDArray[np.float64]
) -> tuple[WyckoffPosition, NDArray[np.float64]]:
    """Find the position of an orbit of `size` atoms, one of them at `point`, and its x, y and z.

    Raises:
        ValueError: if the point lies on no position of that multiplicity.
    """
    images = group.rotations @ point + group.translations
    images -= np.floor(images)
    best: tuple[float, WyckoffPosition, NDArray[np.float64]] | None = None
    for position in group.positions:
        if position.multiplicity != size:
            continue
        linear = position.linear[0].astype(np.float64)
        steps = (images[:, None] - position.shifts[0] / GRID + NEAR_CELLS).reshape(-1, 3)
        parameters = steps @ position.inverse.T
        errors = np.linalg.norm((steps - parameters @ linear.T) @ lattice, axis=1)
        k = int(np.argmin(errors))
        # Of positions that hold a point equally well, the first letter is the more special one.
        if best is None or errors[k] < best[0] - 1e-6:
            best = (float(errors[k]), position, parameters[k])
    if best is None or best[0] > _EXACT:
        raise ValueError(f"No Wyckoff position of multiplicity {size} holds the atom at {point}.")
    free = best[1].linear[0].any(axis=0)
    values = np.where(free, best[2], 0.0)
    return best[1], values - np.floor(values)
