"""Average minimum distances: a crystal's geometry as one vector that changes as little as it does.

The k-th number is the distance from an atom to its k-th nearest neighbour, averaged over the atoms
of the cell (Widdowson, Mosca, Pulido, Kurlin and Cooper, MATCH Commun. Math. Comput. Chem. 87, 529
(2022)). It is the same for every cell of a crystal, its supercells included, for every choice of
origin and orientation, and no number changes by more than twice what atoms are moved by. Elements
play no part.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from crysmetrics.compiled import njit
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.geometry import reduce_cell
from crysmetrics.io import Crystals
from crysmetrics.parallel import chunks_of, in_threads
from crysmetrics.periodic_neighbours import periodic_neighbours
from crysmetrics.progress import task

NEIGHBOURS = 100
"""Length of the vector, as its authors use it."""

_MAX_POINTS = 50_000
"""Lattice points looked at for one structure here; needles have more, and take the long way."""
_ATOMS_AT_ONCE = 1000
"""Atoms in the structures of one job: some 10 ms of work."""
_ANY_DISTANCE = 1e9
"""Å; further away than every neighbour."""


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of average minimum distances (B, 100) in Å."""
    labels = tuple(f"amd_{k}" for k in range(1, NEIGHBOURS + 1))
    return Extractor(name, "crysmetrics 1", labels, _compute, {"neighbours": NEIGHBOURS})


def _compute(crystals: Crystals, workers: int | None) -> tuple[NDArray[np.float64], dict[int, str]]:
    values = np.full((len(crystals), NEIGHBOURS), np.nan)
    offsets = crystals.offsets
    frac = np.ascontiguousarray(crystals.frac_coords)
    parts = chunks_of(crystals.num_atoms.tolist(), _ATOMS_AT_ONCE)
    jobs = [
        (
            np.ascontiguousarray(crystals.lattices[part]),
            frac,
            offsets[part.start : part.stop + 1],
            values[part],
        )
        for part in parts
    ]
    with task("Average minimum distances", len(crystals)) as advance:
        for part, _ in zip(parts, in_threads(_fill, jobs, workers), strict=True):
            advance(part.stop - part.start)
    failures: dict[int, str] = {}
    for i in np.flatnonzero(np.isnan(values[:, 0])).tolist():
        found = periodic_neighbours(crystals[i], _ANY_DISTANCE, nearest=NEIGHBOURS, workers=1)
        if found.failures:
            failures[i] = found.failures[0]
        else:
            values[i] = found.distances.reshape(-1, NEIGHBOURS).mean(axis=0)
    return values, failures


@njit(nogil=True, cache=True)
def _fill(cells, frac, offsets, result):
    """Average minimum distances of some structures; rows of those that are left stay NaN.

    Args:
        cells: (B, 3, 3) rows in Å.
        frac: (N, 3) positions of all structures.
        offsets: (B + 1,) first atoms.
        result: (B, k) that gets the distances.
    """
    nearest = result.shape[1]
    points = np.empty((_MAX_POINTS, 3))
    found = np.empty(1024)
    for b in range(len(cells)):
        n = offsets[b + 1] - offsets[b]
        rows = reduce_cell(cells[b])
        volume = abs(np.linalg.det(rows))
        longest = math.sqrt(rows[2] @ rows[2])
        if not (volume > 1e-6 * longest**3 and volume > 1e-3):
            continue
        inverse = np.linalg.inv(rows)
        reduced = frac[offsets[b] : offsets[b + 1]] @ cells[b] @ inverse
        # The sphere that would hold one and a half times the neighbours, were they evenly spread.
        radius = (3 / (4 * math.pi) * (1.5 * nearest + 8) * volume / n) ** (1 / 3)
        total = np.zeros(nearest)
        count = _lattice_points(rows, inverse, radius, points)
        i = 0
        while i < n and count > 0:
            size = 0
            for j in range(n):
                d = reduced[j] - reduced[i]
                d -= np.rint(d)
                x = d[0] * rows[0, 0] + d[1] * rows[1, 0] + d[2] * rows[2, 0]
                y = d[0] * rows[0, 1] + d[1] * rows[1, 1] + d[2] * rows[2, 1]
                z = d[0] * rows[0, 2] + d[1] * rows[1, 2] + d[2] * rows[2, 2]
                if size + count > len(found):
                    larger = np.empty(2 * (size + count))
                    larger[:size] = found[:size]
                    found = larger
                for p in range(count):
                    u, v, w = x + points[p, 0], y + points[p, 1], z + points[p, 2]
                    square = u * u + v * v + w * w
                    if square <= radius * radius:
                        found[size] = square
                        size += 1
            # The atom itself is one of them, the nearest.
            if size < nearest + 1:
                radius *= 1.2
                count = _lattice_points(rows, inverse, radius, points)
                continue
            ordered = np.sort(np.partition(found[:size], nearest)[: nearest + 1])
            for k in range(nearest):
                total[k] += math.sqrt(ordered[k + 1])
            i += 1
        if i == n:
            result[b] = total / n


@njit(nogil=True, cache=True)
def _lattice_points(rows, inverse, radius, points):
    """Lattice vectors by which an atom may be moved into a sphere around another one.

    Fractional coordinates of the two differ by half at most. Returns their number; 0 if there are
    too many.
    """
    reach = np.empty(3)
    half = 0.0
    for k in range(3):
        reach[k] = radius * math.sqrt(inverse[:, k] @ inverse[:, k]) + 0.5
        half += 0.5 * math.sqrt(rows[k] @ rows[k])
    if (2 * reach[0] + 1) * (2 * reach[1] + 1) * (2 * reach[2] + 1) > _MAX_POINTS:
        return 0
    count = 0
    limit = (radius + half) ** 2
    for a in range(-math.floor(reach[0]), math.floor(reach[0]) + 1):
        for b in range(-math.floor(reach[1]), math.floor(reach[1]) + 1):
            for c in range(-math.floor(reach[2]), math.floor(reach[2]) + 1):
                x = a * rows[0, 0] + b * rows[1, 0] + c * rows[2, 0]
                y = a * rows[0, 1] + b * rows[1, 1] + c * rows[2, 1]
                z = a * rows[0, 2] + b * rows[1, 2] + c * rows[2, 2]
                if x * x + y * y + z * z <= limit:
                    points[count, 0], points[count, 1], points[count, 2] = x, y, z
                    count += 1
    return count
