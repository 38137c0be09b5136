"""Crystals that are known, as orbits of their space groups in the cells that models work in."""

from __future__ import annotations

import numpy as np

from crysgen.wyckoff.draws import DrawnOrbits
from crysmetrics.space_groups.assignment import assign_orbits
from crysmetrics.space_groups.projection import Orbits
from crysmetrics.symmetry import Cell


def placed_orbits(cell: Cell, number: int, tolerance: float) -> tuple[Cell, DrawnOrbits]:
    """Put a crystal of a space group into a reduced primitive cell, orbit after orbit.

    Args:
        cell: the crystal, in any cell.
        number: of the space group that it has.
        tolerance: Å within which symmetry is found; what is found is made exact.

    Returns:
        The crystal and its orbits, atoms in the same order.

    Raises:
        ValueError: if it has another group, with the reason.
    """
    from crysgen.diffusion.lattice import niggli_reduce

    found = assign_orbits(cell, tolerance)
    group = found.space_group
    if group.number != number:
        raise ValueError(f"has space group {group.number}, not {number}")
    _, transforms = niggli_reduce((group.primitive_basis @ found.lattice)[None])
    basis = transforms[0] @ group.primitive_basis
    orbits = DrawnOrbits(Orbits(group, found.positions, basis), np.asarray(found.elements))
    return found.cell(basis), orbits
