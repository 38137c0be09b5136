"""Symmetry of generated crystals: found within a tolerance, and made exact."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals, CrystalsBuilder

_SMALLER = (1.0, 0.3, 0.1)
"""Shares of the tolerance that are tried: a large one can make the search fail."""


def space_groups(crystals: Crystals, tolerance: float) -> NDArray[np.int64]:
    """(B,) space group numbers within a tolerance in Å; 1 where no symmetry is found."""
    from crysmetrics.features.symmetry import space_groups as found_within

    numbers = np.full(len(crystals), np.nan)
    for share in _SMALLER:
        missing = np.flatnonzero(np.isnan(numbers))
        if not len(missing):
            break
        numbers[missing] = found_within(crystals[missing], share * tolerance)[0][:, 0]
    return np.nan_to_num(numbers, nan=1).astype(np.int64)


def symmetrized(crystals: Crystals, tolerance: float) -> Crystals:
    """The crystals in conventional cells with the symmetry found made exact.

    One without symmetry, or whose composition would change, stays as it is. Ids and properties
    are kept.
    """
    import moyopy

    logging.getLogger("moyo").setLevel(logging.ERROR)
    builder = CrystalsBuilder()
    for crystal in crystals:
        cell = moyopy.Cell(
            crystal.lattices[0].tolist(),
            crystal.frac_coords.tolist(),
            crystal.atomic_numbers.tolist(),
        )
        numbers, frac, lattice = crystal.atomic_numbers, crystal.frac_coords, crystal.lattices[0]
        for share in _SMALLER:
            try:
                found = moyopy.MoyoDataset(cell, symprec=share * tolerance)
            except ValueError:
                continue
            ideal = np.asarray(found.std_cell.numbers)
            if found.number > 1 and _same_ratio(numbers, ideal):
                numbers = ideal
                frac = np.asarray(found.std_cell.positions)
                lattice = np.asarray(found.std_cell.basis)
            break
        properties = {name: values[0].item() for name, values in crystal.properties.items()}
        name = crystal.ids[0]
        builder.add(name, numbers, frac, lattice, source=name, properties=properties)
    return builder.build()


def _same_ratio(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    """Whether two lists of atoms have one reduced formula."""
    a, b = (np.bincount(numbers, minlength=119) for numbers in (one, other))
    return bool((a * len(other) == b * len(one)).all())
