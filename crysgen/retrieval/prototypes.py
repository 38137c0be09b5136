"""Reducing crystals to primitive cells and sorting them into prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.species import Counts, renamings, slots_of
from crysmetrics.io import Crystals

SYMPREC = 0.1
"""Å within which atoms are moved onto the symmetry they nearly have."""


@dataclass(frozen=True)
class Reduced:
    """A crystal in its standard primitive cell, atoms sorted by slot.

    Attributes:
        elements: (k,) atomic number of each slot.
        counts: atoms of each slot.
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
    def slots(self) -> NDArray[np.int64]:
        """(n,) the slot of each atom."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


@dataclass(frozen=True)
class Shape:
    """What the matcher needs of a crystal: a Niggli cell, positions and slots."""

    lattice: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    slots: NDArray[np.int64]


def reduced(crystal: Crystals, symprec: float = SYMPREC) -> Reduced:
    """The standard primitive cell of one crystal, symmetrised within `symprec` (Å)."""
    import spglib

    cell = (crystal.lattices[0], crystal.frac_coords, crystal.atomic_numbers)
    space_group = 1
    lattice, frac, numbers = cell[0], cell[1], np.asarray(cell[2], dtype=np.int64)
    for tolerance in (symprec, symprec / 10):
        dataset = quietly(spglib.get_symmetry_dataset, cell, symprec=tolerance)
        if dataset is None:
            continue
        standard = (dataset.std_lattice, dataset.std_positions, dataset.std_types)
        found = _primitive(*standard, str(dataset.international)[0])
        if found is not None and len(found[2]) <= len(crystal.atomic_numbers):
            lattice, frac, numbers = found[0], found[1], found[2].astype(np.int64)
            space_group = int(dataset.number)
            break
    elements, counts = slots_of(np.asarray(numbers, dtype=np.int64))
    lut = {int(z): slot for slot, z in enumerate(elements)}
    order = np.argsort([lut[int(z)] for z in numbers], kind="stable")
    frac = np.asarray(frac, dtype=np.float64)[order]
    return Reduced(elements, counts, np.array(lattice, dtype=np.float64), frac, space_group)


_CENTRING = {
    "P": np.eye(3),
    "A": np.array([[2, 0, 0], [0, 1, -1], [0, 1, 1]]) / 2,
    "C": np.array([[1, -1, 0], [1, 1, 0], [0, 0, 2]]) / 2,
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
    "R": np.array([[2, 1, 1], [-1, 1, 1], [-1, -2, 1]]) / 3,
}
"""Primitive vectors (rows) in terms of those of a standard cell, by kind of centring."""


def _primitive(
    lattice: NDArray[np.float64], frac: NDArray[np.float64], numbers: NDArray[np.int32], kind: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]] | None:
    """The primitive cell of a standard one; None if the atoms do not fit its centring."""
    matrix = _CENTRING.get(kind)
    if matrix is None:
        return None
    copies = round(1 / np.linalg.det(matrix))
    small = matrix @ lattice
    moved = frac @ np.linalg.inv(matrix)
    moved -= np.floor(moved)
    keep: list[int] = []
    for i in range(len(moved)):
        steps = moved[keep] - moved[i]
        steps -= np.round(steps)
        same = numbers[keep] == numbers[i]
        if not (same & ((steps @ small) ** 2 < 1e-4).all(axis=1)).any():
            keep.append(i)
    if len(keep) * copies != len(moved):
        return None
    return small, moved[keep], numbers[keep]


def quietly(function, *args, **kwargs):  # type: ignore[no-untyped-def]
    """None where spglib finds nothing, whether it says so by an error or by None."""
    try:
        return function(*args, **kwargs)
    except Exception:  # spglib's own error types differ between its versions
        return None


def shape_of(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], slots: NDArray[np.int64]
) -> Shape:
    """The same crystal in its Niggli cell, for `match`."""
    import spglib

    niggli = quietly(spglib.niggli_reduce, lattice, eps=1e-5)
    if niggli is not None:
        frac_coords = frac_coords @ lattice @ np.linalg.inv(niggli)
        lattice = np.array(niggli)
    wrapped = np.ascontiguousarray(frac_coords - np.floor(frac_coords))
    return Shape(np.ascontiguousarray(lattice), wrapped, np.ascontiguousarray(slots))


LOOSE = (0.3, 10.0, 0.5)
"""Tolerances of lengths, angles (degrees) and sites (share of (V/N)^(1/3)) in match rates."""
STRICT = (0.2, 5.0, 0.3)
"""pymatgen's defaults, by which zinc blende and rock salt differ."""


def displacements(
    first: Shape,
    second: Shape,
    cases: NDArray[np.int64],
    first_only: bool = False,
    tolerances: tuple[float, float, float] = LOOSE,
) -> NDArray[np.float64]:
    """(P,) RMS displacement under each renaming of the first one's slots; inf where none."""
    from crysgen.retrieval._match import match

    found: NDArray[np.float64] = match(
        first.lattice, first.frac_coords, first.slots,
        second.lattice, second.frac_coords, second.slots,
        cases, *tolerances, first_only,
    )[0]  # fmt: skip
    return found


@dataclass
class Hits:
    """Which entries match which leaders, and how: parallel lists."""

    entry: list[int]
    leader: list[int]
    renaming: list[int]
    distance: list[float]


def sort_into_prototypes(
    shapes: Sequence[Shape], counts: Counts, leaders: Sequence[int] = (), new: int = 0
) -> tuple[list[int], Hits]:
    """Leaders (one crystal for each prototype) among crystals of the same anonymous counts.

    The first crystal that matches no leader yet becomes one. Matching is loose and not transitive,
    so each crystal is then compared with all leaders and may belong to several prototypes.

    Args:
        shapes: crystals; the preferred leaders first.
        counts: their anonymous counts.
        leaders: leaders that stand already, as indices into `shapes`.
        new: index of the first crystal that is not sorted yet.

    Returns:
        All leaders, as indices into `shapes`; and the matches that are not known yet, whose
        leaders are positions in that list and whose renaming turns the entry's slots into the
        leader's.
    """
    cases = renamings(counts)
    found = list(leaders)
    popularity = dict.fromkeys(found, 1)
    for i in range(new, len(shapes)):
        for leader in sorted(found, key=lambda j: -popularity[j]):
            if np.isfinite(displacements(shapes[i], shapes[leader], cases, True)).any():
                popularity[leader] += 1
                break
        else:
            found.append(i)
            popularity[i] = 1
    hits = Hits([], [], [], [])
    for i in range(len(shapes)):
        for position, leader in enumerate(found):
            if i < new and position < len(leaders):
                continue
            distances = displacements(shapes[i], shapes[leader], cases)
            for case in np.flatnonzero(np.isfinite(distances)):
                hits.entry.append(i)
                hits.leader.append(position)
                hits.renaming.append(int(case))
                hits.distance.append(float(distances[case]))
    return found, hits
