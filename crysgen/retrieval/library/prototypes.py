"""Reduce crystals to primitive cells and sort them into prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts, species_of, species_permutations
from crysmetrics.io import Crystals
from crysmetrics.matching.cells import ReducedCells, reduce_arrays
from crysmetrics.matching.distances import ANGLE_TOL, LTOL, STOL, permuted_distances
from crysmetrics.symmetry import cells_of, standard_primitive_cell

SYMPREC = 0.1
"""Å within which atoms are moved onto the symmetry they nearly have."""


@dataclass(frozen=True)
class PrimitiveCrystal:
    """A crystal in its standard primitive cell, atoms sorted by species.

    Attributes:
        elements: (k,) atomic number of each species.
        counts: atoms of each species.
        lattice: (3, 3) rows in Å.
        frac_coords: (n, 3).
        space_group: its number; 1 if it can't be found.
    """

    elements: NDArray[np.int64]
    counts: Counts
    lattice: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    space_group: int

    @property
    def species(self) -> NDArray[np.int64]:
        """(n,) the species of each atom."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def primitive_crystal(crystal: Crystals, symprec: float = SYMPREC) -> PrimitiveCrystal:
    """Reduce one crystal to its standard primitive cell, symmetrised within `symprec` (Å)."""
    whole = cells_of(crystal)[0]
    lattice, frac, numbers = whole
    space_group = 1
    for tolerance in (symprec, symprec / 10):
        found = standard_primitive_cell(whole, tolerance)
        if found is not None and len(found[0].atomic_numbers) <= len(numbers):
            (lattice, frac, numbers), space_group = found
            break
    elements, counts = species_of(np.asarray(numbers, dtype=np.int64))
    lut = {int(z): i for i, z in enumerate(elements)}
    order = np.argsort([lut[int(z)] for z in numbers], kind="stable")
    frac = np.asarray(frac, dtype=np.float64)[order]
    return PrimitiveCrystal(
        elements, counts, np.array(lattice, dtype=np.float64), frac, space_group
    )


class Tolerances(NamedTuple):
    """Tolerances of the matcher: see `crysmetrics.matching.distances`."""

    stol: float
    angle_tol: float
    ltol: float


LOOSE = Tolerances(STOL, ANGLE_TOL, LTOL)
"""Tolerances of match rates."""
STRICT = Tolerances(0.3, 5.0, 0.2)
"""pymatgen's default tolerances, by which zinc blende and rock salt differ."""
WINDOW = 0.5
"""Share of the matcher's window for coordinates that is searched, here and in the shipped library.
With all of it, half as many matches again are found among its entries, nearly all of them poor (RMS
displacements of 0.3 to 0.5)."""


def niggli_cells(
    structures: Sequence[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]],
) -> ReducedCells:
    """Reduce primitive cells to Niggli cells, which the matcher compares.

    Args:
        structures: B lattices (3, 3), fractional coordinates (n, 3) and species (n,).
    """
    return reduce_arrays(
        np.array([lattice for lattice, _, _ in structures]).reshape(-1, 3, 3),
        np.concatenate([frac for _, frac, _ in structures]),
        np.concatenate([species for _, _, species in structures]),
        np.array([len(species) for _, _, species in structures]),
        primitive=False,
        workers=1,
    )


def displacements(
    first: ReducedCells,
    second: ReducedCells,
    pairs: NDArray[np.int64] | Sequence[Sequence[int]],
    cases: NDArray[np.int64],
    tolerances: Tolerances = LOOSE,
    any_mapping: bool = False,
) -> NDArray[np.float64]:
    """Compute RMS displacements (P, C) of pairs under permutations (C, k) of the first's species.

    NaN where nothing matches. With `any_mapping`, upper bounds, finite where the others are.
    """
    return permuted_distances(
        first,
        second,
        pairs,
        cases,
        **tolerances._asdict(),
        window=WINDOW,
        any_mapping=any_mapping,
        workers=1,
    )


def same_structures(cells: Sequence[PrimitiveCrystal]) -> NDArray[np.int64]:
    """Label crystals (B,) from 0, equally where they match by strict tolerances."""
    labels = np.full(len(cells), -1, dtype=np.int64)
    if not len(cells):
        return labels
    niggli = niggli_cells([(cell.lattice, cell.frac_coords, cell.species) for cell in cells])
    representatives: list[int] = []
    for i, cell in enumerate(cells):
        alike = [
            label
            for label, j in enumerate(representatives)
            if cells[j].counts == cell.counts and (cells[j].elements == cell.elements).all()
        ]
        pairs = [(i, representatives[label]) for label in alike]
        case = np.arange(len(cell.counts))[None]
        found = displacements(niggli, niggli, pairs, case, STRICT, any_mapping=True)
        equal = np.flatnonzero(np.isfinite(found[:, 0]))
        if len(equal):
            labels[i] = alike[equal[0]]
        else:
            labels[i] = len(representatives)
            representatives.append(i)
    return labels


@dataclass
class Matches:
    """Matches of crystals with representatives of prototypes: parallel lists.

    Attributes:
        entry: index of the crystal.
        representative: position among the representatives.
        permutation: of the crystal's species.
        distance: RMS displacement in units of (V/N)^(1/3).
    """

    entry: list[int]
    representative: list[int]
    permutation: list[int]
    distance: list[float]


_REPRESENTATIVES_AT_ONCE = 16


def sort_into_prototypes(
    niggli: ReducedCells, counts: Counts, representatives: Sequence[int] = (), new: int = 0
) -> tuple[list[int], Matches]:
    """Choose representatives of prototypes among crystals of the same anonymous counts.

    The first crystal that matches no representative yet becomes one. Matching is loose and not
    transitive, so each crystal is then compared with all representatives and may belong to several
    prototypes.

    Args:
        niggli: Niggli cells of the crystals; the preferred representatives first.
        counts: their anonymous counts.
        representatives: those that are chosen already, as indices into `niggli`.
        new: index of the first crystal that is not sorted yet.

    Returns:
        All representatives, as indices into `niggli`; and the matches that are not known yet, whose
        representatives are positions in that list and whose permutation turns the crystal's species
        into those of the representative.
    """
    cases = species_permutations(counts)
    found = list(representatives)
    popularity = dict.fromkeys(found, 1)
    for i in range(new, len(niggli)):
        # The likeliest first, so that few have to be compared.
        order = sorted(found, key=lambda j: -popularity[j])
        for k in range(0, len(order), _REPRESENTATIVES_AT_ONCE):
            some = order[k : k + _REPRESENTATIVES_AT_ONCE]
            pairs = [(i, j) for j in some]
            distances = displacements(niggli, niggli, pairs, cases, any_mapping=True)
            equal = np.flatnonzero(np.isfinite(distances).any(axis=1))
            if len(equal):
                popularity[some[equal[0]]] += 1
                break
        else:
            found.append(i)
            popularity[i] = 1
    matches = Matches([], [], [], [])
    for i in range(len(niggli)):
        first = len(representatives) if i < new else 0
        pairs = [(i, representative) for representative in found[first:]]
        distances = displacements(niggli, niggli, pairs, cases)
        for position, case in np.argwhere(np.isfinite(distances)).tolist():
            matches.entry.append(i)
            matches.representative.append(first + position)
            matches.permutation.append(case)
            matches.distance.append(float(distances[position, case]))
    return found, matches
