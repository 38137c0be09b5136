"""Primitive cells, as pymatgen's `get_primitive_structure` finds them, compiled."""

from __future__ import annotations

import math

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.matching._linear import inverse, length, times

TOLERANCE = 0.25
"""Å; atoms this close to a translated copy of an atom of their kind are the same atom."""


@njit(nogil=True, cache=True)
def shrink_all(cells, frac, kinds, offsets, counts, steps):
    """Replace structures by smaller ones that repeat, as often as that goes, in place.

    Args:
        cells: (B, 3, 3) rows; those with NaN are left alone.
        frac: (N, 3) positions, those of structure `i` from `offsets[i]` on.
        kinds: (N,) numbers of elements in the alphabetical order of symbols.
        offsets: (B,) first atom of each.
        counts: (B,) number of atoms of each; changed.
        steps: (B,) gets how often each was made smaller.
    """
    largest = 0
    for s in range(len(counts)):
        largest = max(largest, counts[s])
    order, starts = np.empty(largest, np.int64), np.empty(largest + 1, np.int64)
    old, new = np.empty((largest, 3)), np.empty((largest, 3))
    vectors = np.empty((largest, 3))
    together = np.empty((largest, largest), np.bool_)
    inv, work, scale, tol = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3)), np.empty((2, 3))
    for s in range(len(counts)):
        steps[s] = 0
        while not np.isnan(cells[s, 0, 0]):
            first, n = offsets[s], counts[s]
            units, groups = _sort_by_kind(kinds, first, n, order, starts)
            if units == 1:
                break
            for i in range(n):
                for k in range(3):
                    old[i, k] = frac[first + order[i], k]
            for k in range(3):
                tol[0, k] = TOLERANCE / length(cells[s], k)
            number = _translations(old, starts, groups, tol, vectors)
            size = _find_smaller(
                cells[s],
                units,
                groups,
                number,
                old,
                new,
                starts,
                vectors,
                tol,
                together,
                inv,
                work,
                scale,
            )
            if size == 0:
                break
            # The lists are written back from the front: merged atoms are fewer than before.
            for i in range(n):
                order[i] = kinds[first + order[i]]
            m = 0
            for i in range(n):
                if not np.isnan(new[i, 0]):
                    for k in range(3):
                        frac[first + m, k] = new[i, k]
                    kinds[first + m] = order[i]
                    m += 1
            counts[s] = m
            inverse(scale, work, inv)
            for i in range(3):
                for k in range(3):
                    work[i, k] = cells[s, i, k]
            times(inv, 0, 3, work, cells[s])
            steps[s] += 1


@njit(nogil=True, cache=True)
def _sort_by_kind(kinds, first, n, order, starts):
    """Find the stable order by kind, where each kind starts, and the divisor of all their sizes."""
    for i in range(n):
        j = i
        while j > 0 and kinds[first + order[j - 1]] > kinds[first + i]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i
    groups, units = 0, 0
    for i in range(n):
        if i == 0 or kinds[first + order[i]] != kinds[first + order[i - 1]]:
            starts[groups] = i
            if groups > 0:
                units = math.gcd(units, i - starts[groups - 1])
            groups += 1
    starts[groups] = n
    return math.gcd(units, n - starts[groups - 1]), groups


@njit(nogil=True, cache=True)
def _translations(frac, starts, groups, tol, vectors):
    """List vectors between atoms of the rarest kind that take every atom near one of its kind."""
    rarest = 0
    for g in range(groups):
        if starts[g + 1] - starts[g] < starts[rarest + 1] - starts[rarest]:
            rarest = g
    count = 0
    for atom in range(starts[rarest], starts[rarest + 1]):
        for k in range(3):
            vectors[count, k] = frac[atom, k] - frac[starts[rarest], k]
        keep = True
        for g in range(groups):
            for origin in range(starts[g], starts[g + 1]):
                keep = keep and _lands_near(
                    frac, starts[g], starts[g + 1], origin, vectors, count, tol
                )
        count += keep
    return count


@njit(nogil=True, cache=True)
def _lands_near(frac, first, last, origin, vectors, v, tol):
    for i in range(first, last):
        near = True
        for k in range(3):
            scale = 1.0 / (tol[0, k] * 2)
            d = abs((vectors[v, k] % 1.0) * scale - ((frac[i, k] - frac[origin, k]) % 1.0) * scale)
            near = near and min(d, scale - d) < 1.0
        if near:
            return True
    return False


@njit(nogil=True, cache=True)
def _find_smaller(
    cell, units, groups, number, old, new, starts, vectors, tol, together, inv, work, scale
):
    """Find the first supercell matrix (in `scale`) of a smaller cell, and its atoms (in `new`).

    Tries Hermite normal forms in pymatgen's order. Returns the determinant, 0 if there is none.
    """
    for size in range(2, units + 1):
        for a in range(1, size + 1):
            for e in range(1, size + 1):
                if units % size or size % a or (size // a) % e:
                    continue
                for bcf in range(a * a * e):
                    scale[:] = 0.0
                    scale[0, 0], scale[1, 1], scale[2, 2] = a, e, size // a // e
                    scale[0, 1], scale[0, 2] = bcf // (a * e), bcf // e % a
                    scale[1, 2] = bcf % e
                    inverse(scale, work, inv)
                    if not _all_near(inv, vectors, number, tol):
                        continue
                    times(inv, 0, 3, cell, work)
                    for k in range(3):
                        tol[1, k] = TOLERANCE / length(work, k)
                    times(old, 0, starts[groups], scale, new)
                    if _merge(new, old, starts, groups, tol, size, together):
                        return size
    return 0


@njit(nogil=True, cache=True)
def _all_near(inv, vectors, number, tol):
    """Tell whether each row of `inv` lies near one of the vectors, modulo 1."""
    for row in range(3):
        near = False
        for v in range(number):
            near = True
            for k in range(3):
                d = inv[row, k] - vectors[v, k]
                near = near and abs(d - np.rint(d)) < tol[0, k]
            if near:
                break
        if not near:
            return False
    return True


@njit(nogil=True, cache=True)
def _merge(new, old, starts, groups, tol, size, together):
    """Average atoms that coincide in the smaller cell into the first of them; NaN the others.

    False unless each group of them has `size` members, all near each other, none of them
    neighbours in the larger cell.
    """
    for g in range(groups):
        for i in range(starts[g], starts[g + 1]):
            count = 0
            for j in range(starts[g], starts[g + 1]):
                close, far = True, i == j
                for k in range(3):
                    d = new[j, k] - new[i, k]
                    close = close and abs(d - np.rint(d)) < tol[1, k]
                    d = old[j, k] - old[i, k]
                    far = far or abs(d - np.rint(d)) > 2 * tol[0, k]
                together[i, j] = close and far
                count += together[i, j]
            if count != size:
                return False
        for i in range(starts[g], starts[g + 1]):
            for j in range(starts[g], starts[g + 1]):
                if not together[i, j]:
                    continue
                for k in range(starts[g], starts[g + 1]):
                    if together[i, k] and not together[j, k]:
                        return False
    for i in range(starts[groups]):
        for k in range(3):
            new[i, k] = new[i, k] % 1.0
    for g in range(groups):
        for i in range(starts[g], starts[g + 1]):
            if np.isnan(new[i, 0]):
                continue
            rank, leader = 1, -1
            for j in range(starts[g], starts[g + 1]):
                if not together[i, j]:
                    continue
                if leader < 0:
                    leader = j
                    continue
                for k in range(3):
                    offset = new[j, k] - new[leader, k]
                    new[leader, k] += (offset - np.rint(offset)) / (rank + 1)
                rank += 1
            for j in range(leader + 1, starts[g + 1]):
                if together[i, j]:
                    new[j, 0] = np.nan
    return True
