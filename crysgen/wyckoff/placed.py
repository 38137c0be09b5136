"""Crystals that are known, as orbits of their space groups in the cells that models work in."""

from __future__ import annotations

import numpy as np

from crysgen.wyckoff.draws import DrawnOrbits
from crysmetrics.space_groups.assignment import assign_orbits, assign_orbits_of
from crysmetrics.space_groups.projection import Orbits
from crysmetrics.space_groups.subgroups import in_subgroup
from crysmetrics.symmetry import Cell, StandardCell


def placed_orbits(cell: Cell, number: int | None, tolerance: float) -> tuple[Cell, DrawnOrbits]:
    """Put a crystal of a space group into a reduced primitive cell, orbit after orbit.

    Args:
        cell: the crystal, in any cell.
        number: of the space group that it has, or of a subgroup of that; None for the one found.
        tolerance: Å within which symmetry is found; what is found is made exact.

    Returns:
        The crystal and its orbits, atoms in the same order.

    Raises:
        ValueError: if it does not obey that group, with the reason.
    """
    from crysgen.diffusion.lattice import niggli_reduce

    found = assign_orbits(cell, tolerance)
    group = found.space_group
    if number is not None and group.number != number:
        standard = StandardCell(found.cell(), group.number, group.hall_number)
        lower = in_subgroup(standard, number)
        if lower is None:
            raise ValueError(f"has space group {group.number}, not {number}")
        found = assign_orbits_of(lower)
        group = found.space_group
    _, transforms = niggli_reduce((group.primitive_basis @ found.lattice)[None])
    basis = transforms[0] @ group.primitive_basis
    orbits = DrawnOrbits(Orbits(group, found.positions, basis), np.asarray(found.elements))
    return found.cell(basis), orbits
