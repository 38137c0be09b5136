"""Crystals reduced to the cells that StructureMatcher compares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.matching._lattices import niggli_all
from crysmetrics.matching._primitive import shrink_all
from crysmetrics.parallel import chunks_of, in_threads

_REDUCED_AT_ONCE = 2000
"""Atoms in the structures of one job of reduction: some 10 ms of work."""

MAX_KINDS = len(SYMBOLS)
"""Kinds of atoms, numbered from 0, are fewer than this."""

# pymatgen puts elements in the alphabetical order of their symbols.
_KINDS = np.argsort(np.argsort(np.array(SYMBOLS))).astype(np.int64)

# Sums of these over a cell's atoms differ where compositions do; that some day two might not costs
# a comparison, which looks at the elements themselves.
_WEIGHTS = np.random.default_rng(0).integers(1, 2**63, MAX_KINDS, dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class ReducedCells:
    """Structures in their primitive Niggli cells, as StructureMatcher compares them.

    Attributes:
        cells: (B, 3, 3) rows in Å; NaN where a cell can't be reduced because it has no volume.
        frac_coords: (N, 3), with room for the atoms that the structures had before.
        kinds: (N,) elements, numbered in the alphabetical order of their symbols, or any other
            kinds of atoms from 0.
        offsets: (B,) first atom of each structure.
        num_atoms: (B,) number of atoms of each.
        compositions: (B,) keys that are equal where atoms of the primitive cells are the same.
    """

    cells: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    kinds: NDArray[np.int64]
    offsets: NDArray[np.int64]
    num_atoms: NDArray[np.int64]
    compositions: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.cells)


def reduce_cells(crystals: Crystals, workers: int | None = None) -> ReducedCells:
    """Reduce crystals (B structures) to primitive Niggli cells."""
    kinds = _KINDS[crystals.atomic_numbers]
    return reduce_arrays(
        crystals.lattices, crystals.frac_coords, kinds, crystals.num_atoms, workers=workers
    )


def reduce_arrays(
    lattices: NDArray[np.float64],
    frac_coords: NDArray[np.float64],
    kinds: NDArray[np.int64],
    num_atoms: NDArray[np.int64],
    *,
    primitive: bool = True,
    workers: int | None = None,
) -> ReducedCells:
    """Reduce structures, given as packed arrays, to Niggli cells.

    Args:
        lattices: (B, 3, 3) rows in Å.
        frac_coords: (N, 3).
        kinds: (N,) kinds of atoms, from 0 and below `MAX_KINDS`.
        num_atoms: (B,).
        primitive: to those of primitive cells, as StructureMatcher does unless told otherwise
            (`primitive_cell`).
        workers: threads to use; one for each core by default.
    """
    cells, frac = lattices.astype(np.float64), frac_coords.astype(np.float64)
    kinds, counts = kinds.astype(np.int64), num_atoms.astype(np.int64)
    offsets = np.cumsum(counts) - counts
    if not len(cells):
        return ReducedCells(cells, frac, kinds, offsets, counts, np.zeros(0, dtype=np.uint64))
    # What has no volume has no Niggli cell; its inverse would only raise errors.
    cells[~(np.abs(np.linalg.det(cells)) > 1e-8)] = np.nan
    jobs = [
        (cells[part], frac, kinds, offsets[part], counts[part], primitive)
        for part in chunks_of(counts.tolist(), _REDUCED_AT_ONCE)
    ]
    for _ in in_threads(_reduce, jobs, workers):
        pass
    weights = _WEIGHTS[kinds]
    rank = np.arange(len(kinds)) - np.repeat(offsets, num_atoms)
    weights[rank >= np.repeat(counts, num_atoms)] = 0
    return ReducedCells(cells, frac, kinds, offsets, counts, np.add.reduceat(weights, offsets))


def _reduce(
    cells: NDArray[np.float64],
    frac: NDArray[np.float64],
    kinds: NDArray[np.int64],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
    primitive: bool,
) -> None:
    """Reduce some structures in place, each primitive step followed by a Niggli reduction."""
    niggli_all(cells, frac, offsets, counts, np.flatnonzero(np.isfinite(cells[:, 0, 0])))
    if not primitive:
        return
    steps = np.zeros(len(cells), dtype=np.int64)
    shrink_all(cells, frac, kinds, offsets, counts, steps)
    for done in range(int(steps.max())):
        again = np.flatnonzero((steps > done) & np.isfinite(cells[:, 0, 0]))
        niggli_all(cells, frac, offsets, counts, again)
