"""Pairs of crystals that may be the same, found without comparing all with all."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crysmetrics.compiled import njit
from crysmetrics.matching.cells import ReducedCells
from crysmetrics.parallel import in_threads

PAIRS_AT_ONCE = 1_000_000
"""Pairs held at a time: some 100 MB."""
_PAIRS_A_JOB = 50_000


def pairs_of_one_key(
    first: NDArray[np.uint64], second: NDArray[np.uint64], chosen: NDArray[np.int64]
) -> NDArray[np.int64]:
    """List (P, 2) all pairs of chosen entries of `first` and entries of `second` that are equal.

    With the compositions of primitive cells as keys: no other pairs can match.
    """
    order = np.argsort(second, kind="stable")
    keys = second[order]
    begin = np.searchsorted(keys, first[chosen], "left")
    counts = np.searchsorted(keys, first[chosen], "right") - begin
    starts = np.repeat(begin - (np.cumsum(counts) - counts), counts)
    return np.stack(
        [np.repeat(chosen, counts), order[starts + np.arange(int(counts.sum()))]], axis=1
    )


def parts_of_one_key(
    first: NDArray[np.uint64], second: NDArray[np.uint64]
) -> Iterator[NDArray[np.int64]]:
    """Yield `pairs_of_one_key` of all entries in parts, all pairs of one entry in the same part."""
    keys = np.sort(second)
    counts = np.searchsorted(keys, first, "right") - np.searchsorted(keys, first, "left")
    part = np.cumsum(counts) // PAIRS_AT_ONCE
    used = np.flatnonzero(counts)
    for number in np.unique(part[used]):
        yield pairs_of_one_key(first, second, used[part[used] == number])


def likeness_order(
    pairs: NDArray[np.int64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    workers: int | None = None,
) -> NDArray[np.int64]:
    """Sort (P, 2) pairs by their first entries, and then by how near the rows of two tables are.

    The likeliest to match stand first for each crystal. Distances are the largest difference of
    two entries; rows with NaN stand last. Among equals, the lower second entry stands first.

    Args:
        pairs: index into `first` and index into `second`.
        first, second: (A, D) and (B, D), see `scaled_distances`.
        workers: threads to use.
    """
    jobs = [
        (first, second, pairs[k : k + _PAIRS_A_JOB]) for k in range(0, len(pairs), _PAIRS_A_JOB)
    ]
    parts = list(in_threads(_differences, jobs, workers))
    distances = np.concatenate(parts) if parts else np.zeros(0)
    return pairs[np.lexsort([pairs[:, 1], distances, pairs[:, 0]])]


def scaled_distances(distances: NDArray[np.float64], cells: ReducedCells) -> NDArray[np.float64]:
    """Divide (B, D) distances in Å by (V/N)^(1/3): matching does not look at the volume either."""
    with np.errstate(invalid="ignore"):  # what has no cell has no volume
        volumes = np.abs(np.linalg.det(cells.cells))
    return np.ascontiguousarray(distances / ((volumes / cells.num_atoms) ** (1 / 3))[:, None])


@njit(nogil=True, cache=True)
def _differences(first, second, pairs):
    found = np.empty(len(pairs))
    for p in range(len(pairs)):
        a, b = first[pairs[p, 0]], second[pairs[p, 1]]
        largest = 0.0
        for k in range(len(a)):
            difference = abs(a[k] - b[k])
            if not difference <= largest:
                largest = difference
        found[p] = largest if largest == largest else np.inf
    return found
