"""RMS or largest distance of two reduced structures, as StructureMatcher has it, compiled.

One lattice is mapped onto the other in all ways that tolerances allow; for each mapping, and each
pair of atoms of the rarest element put on top of each other, atoms are assigned so that the sum of
squared distances on the average lattice is least. The smallest of the distances counts.
"""

from __future__ import annotations

import math

import numpy as np

from crysmetrics.compiled import njit
from crysmetrics.matching._lattices import DEGREES, MAX_POINTS, mappings
from crysmetrics.matching._linear import (
    angle_cosine,
    determinant,
    fma,
    inverse,
    length,
    lll,
    reciprocal_length,
    times,
)

FAR = 1e20
"""Squared distance of atoms that must not be assigned to each other."""

GOOD_ENOUGH = 1e-5
"""The search ends at the first RMS distance below this, as in pymatgen."""


@njit(nogil=True, cache=True)
def map_pairs(
    first_cells, second_cells, pairs, begin, ltol, angle_tol, scaled, wanted, found, shapes, starts
):
    """List all mappings of the first lattice onto the second, both scaled to one volume, for pairs.

    Args:
        first_cells, second_cells: (., 3, 3) reduced cells, NaN where there is none.
        pairs: (P, 2) indices of cells.
        begin: pair to begin with.
        ltol, angle_tol: tolerances.
        scaled: (P, 2, 3, 3) that gets the scaled cells.
        wanted: (P, 6) that gets lengths and cosines of angles of the second cell.
        found: (M, 3, 3) that gets mapped vectors in Å.
        shapes: (M, 6) that gets their lengths and cosines of angles.
        starts: (P + 1,) that gets the first mapping of each pair.

    Returns:
        The pair before which `found` was full; P if all were done.
    """
    points, cart = np.empty((MAX_POINTS, 3)), np.empty((MAX_POINTS, 3))
    dist, chosen = np.empty(MAX_POINTS), np.empty((MAX_POINTS, 4))
    lengths, angles = np.empty(3), np.empty(3)
    for p in range(begin, len(pairs)):
        a, b = first_cells[pairs[p, 0]], second_cells[pairs[p, 1]]
        starts[p + 1] = starts[p]
        if np.isnan(a[0, 0]) or np.isnan(b[0, 0]):
            continue
        ratio = (abs(determinant(b)) / abs(determinant(a))) ** (1 / 6)
        for i in range(3):
            for j in range(3):
                scaled[p, 0, i, j] = a[i, j] * ratio
                scaled[p, 1, i, j] = b[i, j] / ratio
        for i in range(3):
            lengths[i] = wanted[p, i] = length(scaled[p, 1], i)
            wanted[p, 3 + i] = angle_cosine(scaled[p, 1], i)
            angles[i] = math.acos(wanted[p, 3 + i]) * DEGREES
        count = mappings(
            scaled[p, 0],
            lengths,
            angles,
            ltol,
            angle_tol,
            False,
            found[starts[p] :],
            points,
            cart,
            dist,
            chosen,
        )
        if count == -2:
            return p
        for m in range(starts[p], starts[p] + max(count, 0)):
            for i in range(3):
                shapes[m, i] = length(found[m], i)
                shapes[m, 3 + i] = angle_cosine(found[m], i)
        starts[p + 1] = starts[p] + max(count, 0)
    return len(pairs)


@njit(nogil=True, cache=True)
def compare_pairs(
    first,
    second,
    pairs,
    scaled,
    found,
    averages,
    starts,
    permutations,
    stol,
    window,
    any_mapping,
    by_largest,
    most_atoms,
    result,
):
    """Compute RMS distances of pairs under permutations of species, NaN where none is below the
    tolerance.

    Args:
        first, second: positions (N, 3), kinds (N,), offsets and counts of reduced structures.
        pairs: (P, 2) indices; numbers of atoms of both must be equal.
        scaled, found, starts: from `map_pairs`.
        averages: (M, 3, 3) average of mapped and wanted cell.
        permutations: (C, K) kinds that the kinds of first structures become.
        stol: tolerance of sites.
        window: share of pymatgen's tolerance of fractional coordinates, along each axis, within
            which every atom needs a partner before atoms are assigned.
        any_mapping: end the search at the first distance below the tolerance.
        by_largest: compare the largest distance of two atoms with the tolerance, as pymatgen's
            `fit` does, not the RMS distance, as its `get_rms_dist` does.
        most_atoms: number of atoms of the largest structure.
        result: (P, C) that gets the distances.
    """
    frac1, kinds1, offsets1, counts1 = first
    frac2, kinds2, offsets2, counts2 = second
    # Atoms of both structures: positions, in the mapped cell, in the reduced average cell, and
    # Cartesian on that.
    atoms = np.empty((7, most_atoms, 3))
    position, f1, f2, moved = atoms[0], atoms[1], atoms[2], atoms[3]
    forbidden = np.empty((most_atoms, most_atoms), np.bool_)
    squared, image = np.empty((most_atoms, most_atoms)), np.empty((most_atoms, most_atoms), np.int8)
    duals, marks = np.empty((3, most_atoms)), np.empty((6, most_atoms), np.int64)
    inv, work, basis, integers = (
        np.empty((3, 3)),
        np.empty((3, 3)),
        np.empty((3, 3)),
        np.empty((3, 3)),
    )
    tol, images, stack = np.empty((2, 3)), np.empty((27, 3)), np.empty((3, 3, 3))
    height = np.empty(3)
    enough = stol if any_mapping else min(GOOD_ENOUGH, stol)
    cases = len(permutations)
    for job in range(len(pairs) * cases):
        p, case = job // cases, job % cases
        result[p, case] = np.nan
        n = counts1[pairs[p, 0]]
        if n != counts2[pairs[p, 1]] or starts[p + 1] == starts[p]:
            continue
        o1, o2 = offsets1[pairs[p, 0]], offsets2[pairs[p, 1]]
        anchor = _forbid(kinds1, o1, kinds2, o2, n, permutations[case], forbidden)
        if anchor < 0:
            continue
        for i in range(n):
            for k in range(3):
                position[i, k] = frac1[o1 + i, k]
                f2[i, k] = frac2[o2 + i, k]
        times(position, 0, n, scaled[p, 0], position)
        best = np.inf
        for m in range(starts[p], starts[p + 1]):
            inverse(found[m], work, inv)
            times(position, 0, n, inv, f1)
            for i in range(n):
                for k in range(3):
                    f1[i, k] -= np.floor(f1[i, k])
            scale = (n / abs(determinant(averages[m]))) ** (1 / 3)
            inverse(averages[m], work, inv)
            for k in range(3):
                tol[0, k] = reciprocal_length(inv, k) * (window * stol) / (np.pi * scale)
            reduced = False
            for origin in range(n):
                if forbidden[anchor, origin]:
                    continue
                for i in range(n):
                    for k in range(3):
                        moved[i, k] = f2[i, k] + (f1[origin, k] - f2[anchor, k])
                if not _all_near(moved, f1, forbidden, n, tol):
                    continue
                if not reduced:
                    reduced = True
                    lll(averages[m], basis, integers, stack)
                    inverse(basis, work, inv)
                    for k in range(3):
                        tol[1, k] = reciprocal_length(inv, k) * stol / (np.pi * scale)
                        height[k] = 2 * np.pi / reciprocal_length(inv, k)
                    inverse(integers, work, inv)
                    _images_of(basis, images)
                    _place(f1, n, inv, basis, atoms[4], atoms[5])
                _place(moved, n, inv, basis, moved, atoms[6])
                _distances(
                    moved,
                    atoms[6],
                    atoms[4],
                    atoms[5],
                    forbidden,
                    n,
                    tol,
                    height,
                    images,
                    squared,
                    image,
                )
                _assign(squared, n, duals, marks)
                value = _displacement(
                    atoms[6], atoms[5], images, image, marks, n, scale, by_largest
                )
                if value < best:
                    best = value
                    if best < enough:
                        break
            if best < enough:
                break
        if best < stol:
            result[p, case] = best


@njit(nogil=True, cache=True)
def _forbid(kinds1, o1, kinds2, o2, n, renamed, forbidden):
    """Mark pairs of different elements; the first atom of the second structure with fewest
    partners, or -1 if the compositions differ."""
    anchor, fewest = -1, n + 1
    for i in range(n):
        partners, same = 0, 0
        for j in range(n):
            forbidden[i, j] = kinds2[o2 + i] != renamed[kinds1[o1 + j]]
            partners += not forbidden[i, j]
            same += kinds2[o2 + i] == kinds2[o2 + j]
        if partners != same:
            return -1
        if partners < fewest:
            anchor, fewest = i, partners
    return anchor


@njit(nogil=True, cache=True)
def _all_near(moved, f1, forbidden, n, tol):
    """Tell whether each atom lies, along each axis of the mapped cell, near one of its element."""
    for i in range(n):
        near = False
        for j in range(n):
            if forbidden[i, j]:
                continue
            near = True
            for k in range(3):
                d = moved[i, k] - f1[j, k]
                if abs(d - np.rint(d)) > tol[0, k]:
                    near = False
                    break
            if near:
                break
        if not near:
            return False
    return True


@njit(nogil=True, cache=True)
def _images_of(basis, images):
    """List the 27 lattice vectors around the origin."""
    row = 0
    for a in range(-1, 2):
        for b in range(-1, 2):
            for c in range(-1, 2):
                for k in range(3):
                    images[row, k] = a * basis[0, k] + b * basis[1, k] + c * basis[2, k]
                row += 1


@njit(nogil=True, cache=True)
def _place(frac, n, inv, basis, reduced, cart):
    """Wrap positions into the reduced cell: fractional, and in Å."""
    times(frac, 0, n, inv, reduced)
    for i in range(n):
        x = reduced[i, 0] - np.floor(reduced[i, 0])
        y = reduced[i, 1] - np.floor(reduced[i, 1])
        z = reduced[i, 2] - np.floor(reduced[i, 2])
        reduced[i, 0], reduced[i, 1], reduced[i, 2] = x, y, z
        for k in range(3):
            cart[i, k] = x * basis[0, k] + y * basis[1, k] + z * basis[2, k]


@njit(nogil=True, cache=True)
def _nearest_shift(gap):
    """Find the whole number that brings a difference of wrapped positions nearest to 0."""
    if gap > 0.5:
        return -1
    return 1 if gap < -0.5 else 0


@njit(nogil=True, cache=True)
def _distances(frac2, cart2, frac1, cart1, forbidden, n, tol, height, images, squared, image):
    """Compute squared distances (n, n) from the second structure's atoms to the first's.

    Also finds the nearest image; distances are `FAR` where elements differ or some coordinate
    differs too much.

    `height` has the distances of the cell's opposite faces in Å.
    """
    for i in range(n):
        for j in range(n):
            squared[i, j], image[i, j] = FAR, -1
            if forbidden[i, j]:
                continue
            g0, g1, g2 = (
                frac1[j, 0] - frac2[i, 0],
                frac1[j, 1] - frac2[i, 1],
                frac1[j, 2] - frac2[i, 2],
            )
            p, q, r = _nearest_shift(g0), _nearest_shift(g1), _nearest_shift(g2)
            if abs(g0 + p) > tol[1, 0] or abs(g1 + q) > tol[1, 1] or abs(g2 + r) > tol[1, 2]:
                continue
            x = cart1[j, 0] - cart2[i, 0]
            y = cart1[j, 1] - cart2[i, 1]
            z = cart1[j, 2] - cart2[i, 2]
            row = 9 * p + 3 * q + r + 13
            u, v, w = x + images[row, 0], y + images[row, 1], z + images[row, 2]
            best = u * u + v * v + w * w
            # An image beyond the next face is not nearer than that face.
            reach = math.sqrt(best) * (1 + 1e-9) + 1e-9
            if (
                (1 - abs(g0 + p)) * height[0] <= reach
                or (1 - abs(g1 + q)) * height[1] <= reach
                or (1 - abs(g2 + r)) * height[2] <= reach
            ):
                best = 1e100
                for other in range(27):
                    u, v, w = x + images[other, 0], y + images[other, 1], z + images[other, 2]
                    d = u * u + v * v + w * w
                    if d < best:
                        best = d
                        row = other
            squared[i, j], image[i, j] = best, row


@njit(nogil=True, cache=True)
def _assign(cost, n, duals, marks):
    """Solve the linear assignment of least cost; the column of row `i` goes to `marks[0, i]`.

    Shortest augmenting paths (Crouse 2016, IEEE Trans. Aerosp. Electron. Syst. 52, 1679), with
    SciPy's order among equals: free columns first, then the last one looked at before.
    """
    u, v, shortest = duals[0], duals[1], duals[2]
    column_of, row_of, path, left, in_rows, in_columns = (
        marks[0],
        marks[1],
        marks[2],
        marks[3],
        marks[4],
        marks[5],
    )
    for i in range(n):
        u[i] = v[i] = 0.0
        column_of[i] = row_of[i] = -1
    for start in range(n):
        for j in range(n):
            left[j] = n - j - 1
            in_rows[j] = in_columns[j] = 0
            shortest[j] = np.inf
        remaining, lowest, i, sink = n, 0.0, start, -1
        while sink < 0:
            in_rows[i] = 1
            index, least = -1, np.inf
            for it in range(remaining):
                j = left[it]
                r = lowest + cost[i, j] - u[i] - v[j]
                if r < shortest[j]:
                    path[j] = i
                    shortest[j] = r
                if shortest[j] < least or (shortest[j] == least and row_of[j] < 0):
                    least, index = shortest[j], it
            lowest = least
            j = left[index]
            if row_of[j] < 0:
                sink = j
            else:
                i = row_of[j]
            in_columns[j] = 1
            remaining -= 1
            left[index] = left[remaining]
        u[start] += lowest
        for i in range(n):
            if in_rows[i] and i != start:
                u[i] += lowest - shortest[column_of[i]]
        for j in range(n):
            if in_columns[j]:
                v[j] -= lowest - shortest[j]
        j = sink
        while True:
            i = path[j]
            row_of[j] = i
            column_of[i], j = j, column_of[i]
            if i == start:
                break


@njit(nogil=True, cache=True)
def _displacement(cart2, cart1, images, image, marks, n, scale, by_largest):
    """Compute the RMS (or largest) distance of assigned atoms, best translated, times `scale`."""
    mx, my, mz = 0.0, 0.0, 0.0
    for i in range(n):
        j = marks[0, i]
        if image[i, j] < 0:
            return FAR
        mx += cart1[j, 0] - cart2[i, 0] + images[image[i, j], 0]
        my += cart1[j, 1] - cart2[i, 1] + images[image[i, j], 1]
        mz += cart1[j, 2] - cart2[i, 2] + images[image[i, j], 2]
    mx, my, mz = mx / n, my / n, mz / n
    total, farthest = 0.0, 0.0
    for i in range(n):
        j = marks[0, i]
        x = cart1[j, 0] - cart2[i, 0] + images[image[i, j], 0] - mx
        y = cart1[j, 1] - cart2[i, 1] + images[image[i, j], 1] - my
        z = cart1[j, 2] - cart2[i, 2] + images[image[i, j], 2] - mz
        d = math.sqrt(x * x + y * y + z * z) * scale
        farthest = max(farthest, d)
        total = fma(d, d, total)
    return farthest if by_largest else math.sqrt(total) / n**0.5
