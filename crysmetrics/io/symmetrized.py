"""Sets of crystals with the symmetry that was found in them made exact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.builder import CrystalsBuilder
from crysmetrics.io.crystals import Crystals
from crysmetrics.progress import task
from crysmetrics.symmetrize import symmetrize_in_place
from crysmetrics.symmetry import (
    TOLERANCE,
    StandardCell,
    cells_of,
    primitive_cell,
    standard_cell,
)

HALL_NUMBER = "hall_number"
"""Property of symmetrised crystals: the setting that their cells stand in, 1 to 530 (see
`crysmetrics.space_group_settings.setting_of`); 1, which is P1, for those that have no symmetry."""
EXACT = 1e-3
"""Å within which symmetry is found that has been made exact."""
EMPTY: Mapping[int, StandardCell] = MappingProxyType({})
"""No crystals whose symmetry is given."""


def symmetrized(
    crystals: Crystals, tolerance: float = TOLERANCE, imposed: Mapping[int, StandardCell] = EMPTY
) -> Crystals:
    """Put crystals into conventional cells in which the symmetry found is exact.

    One without symmetry, or whose composition would change, stays as it is. Ids, properties and
    failures are kept, and the property `HALL_NUMBER` is added.

    Args:
        crystals: B structures.
        tolerance: Å within which symmetry is found.
        imposed: cells of those, by position, whose symmetry is given and is not searched for.
    """
    if not len(crystals):
        return crystals
    builder = CrystalsBuilder()
    for i, cell in enumerate(cells_of(crystals)):
        found = imposed[i] if i in imposed else standard_cell(cell, tolerance)
        properties = {name: values[i].item() for name, values in crystals.properties.items()}
        properties[HALL_NUMBER] = 1 if found is None else found.hall_number
        lattice, frac, numbers = cell if found is None else found.cell
        name = crystals.ids[i]
        builder.add(name, numbers, frac, lattice, source=name, properties=properties)
    built = builder.build()
    return built.with_failures((*crystals.failures, *built.failures))


def primitive(crystals: Crystals) -> Crystals:
    """Put crystals that `symmetrized` has seen into the primitive cells of their standard ones.

    Ids, other properties and failures are kept; the cells stand in P1.

    Args:
        crystals: B structures whose symmetry is exact.
    """
    if not len(crystals):
        return crystals
    builder = CrystalsBuilder()
    for i, cell in enumerate(cells_of(crystals)):
        properties = {name: values[i].item() for name, values in crystals.properties.items()}
        properties[HALL_NUMBER] = 1
        small, name = primitive_cell(cell, EXACT), crystals.ids[i]
        atoms, frac = small.atomic_numbers, small.frac_coords
        builder.add(name, atoms, frac, small.lattice, source=name, properties=properties)
    built = builder.build()
    return built.with_failures((*crystals.failures, *built.failures))


def symmetrized_in_place(
    crystals: Crystals, tolerance: float, chosen: NDArray[np.bool_] | None = None
) -> Crystals:
    """Make the symmetry that crystals nearly have exact, in the cells they stand in.

    One that would not stay what it is stays as it is, see `crysmetrics.symmetrize`. Atoms keep
    their order, ids, properties and failures are kept.

    Args:
        crystals: B structures.
        tolerance: Å beyond which no atom is moved.
        chosen: (B,) which of them; all by default.
    """
    rows = np.arange(len(crystals)) if chosen is None else np.flatnonzero(chosen)
    lattices, frac = crystals.lattices.copy(), crystals.frac_coords.copy()
    cells = cells_of(crystals)
    with task("Making samples symmetric", len(rows)) as advance:
        for i in rows.tolist():
            found = symmetrize_in_place(cells[i], tolerance)
            if found is not None:
                lattices[i] = found.cell.lattice
                frac[crystals.offsets[i] : crystals.offsets[i + 1]] = found.cell.frac_coords
            advance(1)
    return replace(crystals, lattices=lattices, frac_coords=frac)


def hall_numbers(crystals: Crystals) -> list[int]:
    """Read (B,) the settings that `symmetrized` has noted; 1 for all that it has not seen."""
    values = crystals.properties.get(HALL_NUMBER, np.ones(len(crystals), dtype=np.int64))
    return [int(value) for value in values]
