"""Which crystals, and which structure types, another set has."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, permutations, product

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.matching.candidates import likeness_order, parts_of_one_key, scaled_distances
from crysmetrics.matching.cells import ReducedCells, reduce_arrays
from crysmetrics.matching.distances import matches
from crysmetrics.matching.tolerances import Tolerances

_PERMUTATIONS_AT_ONCE = 720


def find_known(
    cells: ReducedCells,
    known: ReducedCells,
    amd: NDArray[np.float64],
    known_amd: NDArray[np.float64],
    tolerances: Tolerances,
    workers: int | None = None,
) -> NDArray[np.int64]:
    """Find for each crystal the one of another set that is the same crystal.

    Only crystals with the same atoms in their primitive cells are compared, the likeliest first;
    what matches none has been compared with all of them.

    Args:
        cells, known: of `reduce_cells`, B and K crystals.
        amd, known_amd: (B, D) and (K, D) average minimum distances, by which the order goes.
        tolerances: see `distances.matches`.
        workers: threads to use.

    Returns:
        (B,) index into `known` of the crystal nearest by `amd` among those that match; -1 for none.
    """
    one, two = scaled_distances(amd, cells), scaled_distances(known_amd, known)
    found = np.full(len(cells), -1, dtype=np.int64)
    for pairs in parts_of_one_key(cells.compositions, known.compositions):
        ordered = likeness_order(pairs, one, two, workers)
        _first_matches(cells, known, ordered, None, tolerances, workers, found)
    return found


def find_known_prototypes(
    cells: ReducedCells,
    known: ReducedCells,
    amd: NDArray[np.float64],
    known_amd: NDArray[np.float64],
    tolerances: Tolerances,
    workers: int | None = None,
) -> NDArray[np.int64]:
    """Find for each crystal one of another set that has its structure, whatever the elements.

    Two crystals have one structure if they match under some permutation of species, as in
    pymatgen's `fit_anonymous`, in either order.

    Args:
        cells, known: of `anonymous_cells`.
        amd, known_amd, tolerances, workers: see `find_known`.

    Returns:
        (B,) index into `known` of the nearest by `amd` among those that match; -1 for none.
    """
    one, two = scaled_distances(amd, cells), scaled_distances(known_amd, known)
    found = np.full(len(cells), -1, dtype=np.int64)
    for pairs in parts_of_one_key(cells.compositions, known.compositions):
        ordered = likeness_order(pairs, one, two, workers)
        keys = cells.compositions[ordered[:, 0]]
        for key in np.unique(keys):
            part = ordered[keys == key]
            amounts = _amounts(cells, part[0, 0])
            _first_matches(cells, known, part, amounts, tolerances, workers, found)
    return found


def anonymous_cells(crystals: Crystals, workers: int | None = None) -> ReducedCells:
    """Reduce crystals to primitive Niggli cells in which elements are numbered by their amounts.

    The rarest is 0; among equal amounts the order is that of atomic numbers, which means nothing.
    Crystals of one anonymous formula have equal `compositions`.
    """
    counts = crystals.element_counts
    # Absent elements come last.
    rank = np.argsort(np.argsort(np.where(counts > 0, counts, 2**40), axis=1, kind="stable"))
    kinds = rank[crystals.structure_index, crystals.atomic_numbers]
    return reduce_arrays(
        crystals.lattices, crystals.frac_coords, kinds, crystals.num_atoms, workers=workers
    )


def _amounts(cells: ReducedCells, i: int) -> tuple[int, ...]:
    """Count the atoms of each kind in the primitive cell of structure `i`, the rarest first."""
    atoms = slice(cells.offsets[i], cells.offsets[i] + cells.num_atoms[i])
    return tuple(np.bincount(cells.kinds[atoms]).tolist())


def _first_matches(
    cells: ReducedCells,
    known: ReducedCells,
    pairs: NDArray[np.int64],
    amounts: tuple[int, ...] | None,
    tolerances: Tolerances,
    workers: int | None,
    found: NDArray[np.int64],
) -> None:
    """Note for each crystal the first of its pairs that match, in `found`.

    Args:
        cells, known, tolerances, workers: see `find_known`.
        pairs: (P, 2), all of one crystal one after the other.
        amounts: of the kinds of atoms, of which those of equal amounts may be permuted; None for
            none of them.
        found: (B,) that gets indices into `known`.
    """
    begin = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    rank = np.arange(len(pairs)) - np.repeat(begin, np.diff([*begin, len(pairs)]))
    low, high = 0, 1
    # Most that match do so with the very first; with each round there are fewer left.
    while (todo := np.flatnonzero((rank >= low) & (found[pairs[:, 0]] < 0))).size:
        todo = todo[rank[todo] < high]
        if amounts is None:
            same = matches(cells, known, pairs[todo], tolerances, workers=workers)
        else:
            same = _permuted_matches(cells, known, pairs[todo], amounts, tolerances, workers)
        hits = todo[same][::-1]  # of several the first stands last, and stays
        found[pairs[hits, 0]] = pairs[hits, 1]
        low, high = high, 2 * high


def _permuted_matches(
    cells: ReducedCells,
    known: ReducedCells,
    pairs: NDArray[np.int64],
    amounts: tuple[int, ...],
    tolerances: Tolerances,
    workers: int | None,
) -> NDArray[np.bool_]:
    """Tell (P,) whether pairs match under some permutation of kinds of equal amounts."""
    same = np.zeros(len(pairs), dtype=bool)
    waiting = _permutations(amounts)
    # A dozen elements of equal amounts have more permutations than memory can hold.
    while block := list(islice(waiting, _PERMUTATIONS_AT_ONCE)):
        todo = np.flatnonzero(~same)
        same[todo] = matches(cells, known, pairs[todo], tolerances, np.array(block), workers)
    return same


def _permutations(amounts: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """List all permutations of kinds that keep amounts, which stand in ascending order."""
    blocks = [[k for k, a in enumerate(amounts) if a == amount] for amount in sorted({*amounts})]
    for parts in product(*(permutations(block) for block in blocks)):
        yield tuple(k for part in parts for k in part)
