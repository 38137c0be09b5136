"""Subgroups of space groups that keep all translations, and crystals in the cells of these.

A crystal obeys every subgroup of its space group: rutile (136) is a crystal of Pnnm (58), too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.lattices import symmetric_lattice
from crysmetrics.symmetry import Cell, StandardCell, asymmetric_unit, conventional_cell

_EXACT = 1e-3
"""Å within which the operations of a subgroup are found."""
_MARKER = 119
"""Atomic number of the points that mark a subgroup: beyond those of all elements."""
_POINTS = ((0.137, 0.071, 0.193), (0.082, 0.159, 0.031), (0.213, 0.047, 0.118))
"""Points in general positions, of which the second is tried where an atom lies on the first."""


def is_subgroup(number: int, of: int) -> bool:
    """Tell whether a space group, or one alike, is a translationengleiche subgroup of another.

    Args:
        number: 1 to 230, of the possible subgroup.
        of: 1 to 230; every group is a subgroup of itself.
    """
    return number in _subgroups(of)


def in_subgroup(crystal: StandardCell, number: int) -> StandardCell | None:
    """Put a crystal into the conventional cell of a subgroup of its space group.

    The crystal stays what it is; only axes and origin are those of the subgroup. Orbits may fall
    apart into several.

    Args:
        crystal: in the conventional cell of its own space group.
        number: 1 to 230, of the subgroup.

    Returns:
        None if it is no translationengleiche subgroup, or can't be found in the crystal.
    """
    group = space_group(crystal.space_group)
    chosen = _subgroups(group.number).get(number)
    if chosen is None:
        return None
    try:
        if crystal.hall_number != group.hall_number:
            crystal = conventional_cell(crystal.cell, _EXACT)
    except ValueError:
        return None
    if crystal.hall_number != group.hall_number:
        return None
    cell = crystal.cell
    for point in _POINTS:
        # One orbit of the subgroup in general position has no more symmetry than the subgroup.
        images = group.rotations[chosen] @ point + group.translations[chosen]
        marked = Cell(
            cell.lattice,
            np.concatenate([cell.frac_coords, images - np.floor(images)]),
            np.concatenate([cell.atomic_numbers, np.full(len(images), _MARKER)]),
        )
        try:
            found = conventional_cell(marked, _EXACT)
        except ValueError:
            continue
        lattice, frac, numbers = found.cell
        atoms = numbers != _MARKER
        own = Cell(lattice, frac[atoms], numbers[atoms])
        is_right = found.space_group == number
        if is_right and asymmetric_unit(own, found.hall_number) is not None:
            return StandardCell(own, number, found.hall_number)
    return None


@lru_cache(maxsize=230)
def _subgroups(number: int) -> Mapping[int, NDArray[np.int64]]:
    """Find the subgroups of a space group that keep all translations.

    Returns:
        Number of each -> which operations of `SpaceGroup` are its own, of all centring vectors. Of
        several of one number it has one.
    """
    import moyopy

    group = space_group(number)
    basis = group.primitive_basis
    inverse = np.linalg.inv(basis)
    # One operation for each rotation, in a primitive cell.
    turns = group.rotations.reshape(-1, 9)
    _, first, kind = np.unique(turns, axis=0, return_index=True, return_inverse=True)
    rotations = np.rint(inverse.T @ group.rotations[first] @ basis.T).astype(int)
    moves = group.translations[first] @ inverse
    skewed = np.array([[1.0, 0.13, 0.17], [0.0, 1.11, 0.19], [0.0, 0.0, 1.23]])
    lattice = (basis @ symmetric_lattice(skewed, group.rotations)).tolist()
    classes = moyopy.enumerate_translationengleiche_subgroups(rotations.tolist(), moves.tolist())
    found: dict[int, NDArray[np.int64]] = {}
    for alike in classes:
        own = alike.representative.operation_indices
        name = moyopy.SpaceGroup(rotations[own].tolist(), moves[own].tolist(), basis=lattice).number
        found.setdefault(int(name), np.flatnonzero(np.isin(kind.ravel(), own)))
    return found
