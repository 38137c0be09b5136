"""Groups of crystals of one set that are the same crystal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.matching.cells import ReducedCells, reduce_cells
from crysmetrics.matching.distances import matches
from crysmetrics.matching.tolerances import Tolerances


def group_duplicates(
    crystals: Crystals,
    tolerances: Tolerances,
    cells: ReducedCells | None = None,
    workers: int | None = None,
) -> NDArray[np.int64]:
    """Label (B,) crystals: equal labels for the same crystal, numbered as they first occur.

    Two crystals that match a third need not match each other, so that groups have to be defined.
    Crystals are taken in an order of their own, by the volume per atom and then by the form of
    their primitive Niggli cells. The first one represents a group, and all that match it belong to
    that; the first of the others represents the next group, and so on. So no two representatives
    match, every crystal matches that of its group, and neither groups nor their number depend on
    the order in which crystals are given. (pymatgen's `group_structures` takes them in the order
    given. Chains of matches make no group: a row of crystals each a little different from the last
    would be one crystal.)

    Args:
        crystals: B structures.
        tolerances: see `distances.matches`.
        cells: of `reduce_cells`, if they are there.
        workers: threads to use.

    Returns:
        Labels from 0; -1 where a cell has no volume, so that it can't be compared.
    """
    cells = reduce_cells(crystals, workers) if cells is None else cells
    _, family = np.unique(cells.compositions, return_inverse=True)
    family = family.reshape(-1)
    representative = np.arange(len(crystals))
    comparable = np.isfinite(cells.cells[:, 0, 0])
    order = _own_order(crystals, cells)
    waiting = order[comparable[order]]
    while len(waiting):
        # The first of every composition at once, so that there are many pairs to a call.
        families, first = np.unique(family[waiting], return_index=True)
        chosen = np.full(int(family.max()) + 1, -1)
        chosen[families] = waiting[first]
        rest = np.delete(waiting, first)
        pairs = np.stack([chosen[family[rest]], rest], axis=1)
        same = matches(cells, cells, pairs, tolerances, workers=workers)
        representative[rest[same]] = pairs[same, 0]
        waiting = rest[~same]
    labels = np.full(len(crystals), -1, dtype=np.int64)
    used = np.flatnonzero(comparable)
    _, first, groups = np.unique(representative[used], return_index=True, return_inverse=True)
    labels[used] = np.argsort(np.argsort(first))[groups.reshape(-1)]
    return labels


def _own_order(crystals: Crystals, cells: ReducedCells) -> NDArray[np.int64]:
    """List (B,) indices of crystals in an order that follows from what they are."""
    metric = cells.cells @ cells.cells.transpose(0, 2, 1)
    with np.errstate(invalid="ignore"):  # what has no cell has no volume
        volume = np.abs(np.linalg.det(cells.cells)) / cells.num_atoms
    form = [metric[:, i, j] for i in range(3) for j in range(i, 3)]
    # Lattices may be equal where positions are not.
    return np.lexsort([np.array(crystals.content_hashes(), dtype=np.str_), *form[::-1], volume])
