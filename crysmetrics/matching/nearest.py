"""Nearest rows of tables of descriptors, by the largest difference of two entries, compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.compiled import njit
from crysmetrics.parallel import in_threads

_ROWS_AT_ONCE = 200


def nearest_rows(
    first: NDArray[np.float64],
    second: NDArray[np.float64] | None = None,
    workers: int | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find for each row the nearest row of another table, or of the same one.

    The distance is the largest difference of two entries (Chebyshev's). The search is exact: it
    begins at rows of a similar last entry and ends where that entry alone is farther away.

    Args:
        first: (A, D). Rows with NaN have no neighbours and are none.
        second: (B, D); None for the other rows of `first`.
        workers: threads to use; one for each core by default.

    Returns:
        (A,) indices of the nearest rows, the first of equally near ones, and (A,) distances; -1
        and NaN where there is none.
    """
    table = first if second is None else second
    known = np.flatnonzero(np.isfinite(table).all(axis=1))
    order = known[np.argsort(table[known, -1], kind="stable")]
    rows = np.ascontiguousarray(table[order])
    index = np.full(len(first), -1, dtype=np.int64)
    distance = np.full(len(first), np.nan)
    queries = np.flatnonzero(np.isfinite(first).all(axis=1))
    jobs = [
        (first, queries[k : k + _ROWS_AT_ONCE], rows, order, second is None, index, distance)
        for k in range(0, len(queries), _ROWS_AT_ONCE)
    ]
    for _ in in_threads(_search, jobs, workers):
        pass
    return index, distance


@njit(nogil=True, cache=True)
def _search(first, queries, rows, order, without_itself, index, distance):
    """Fill `index` and `distance` of the `queries` among `rows`, which are sorted by their last
    entries; `order` has the place of each in the table."""
    count, width = rows.shape
    last = np.ascontiguousarray(rows[:, -1])
    for q in queries:
        begin = np.searchsorted(last, first[q, -1])
        above, below = begin, begin - 1
        best, where = np.inf, -1
        while above < count or below >= 0:
            gap_above = last[above] - first[q, -1] if above < count else np.inf
            gap_below = first[q, -1] - last[below] if below >= 0 else np.inf
            if min(gap_above, gap_below) > best:
                break
            if gap_above <= gap_below:
                row = above
                above += 1
            else:
                row = below
                below -= 1
            if without_itself and order[row] == q:
                continue
            largest = 0.0
            for k in range(width):
                largest = max(largest, abs(first[q, k] - rows[row, k]))
                if largest > best:
                    break
            if largest < best or (largest == best and order[row] < where):
                best, where = largest, order[row]
        if where >= 0:
            index[q], distance[q] = where, best
