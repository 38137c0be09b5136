"""Neighbours of atoms over all periodic images, in any cell: the edges of crystal graphs.

Each cell is Minkowski-reduced and written as a lower triangle. The images of an atom inside a
sphere are then three nested intervals, exact for cells of any shape (Fincke & Pohst, Math. Comput.
44, 463 (1985)), so that the cost follows the number of neighbours, not the skewness of the cell.
For the k nearest the sphere grows from the one that the density suggests until it holds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.compiled import njit
from crysmetrics.geometry import PackedCells, reduce_cell
from crysmetrics.parallel import chunks_of, in_threads

TIE = 1e-8
"""Distances (Å) this close are equal; pymatgen's tolerance at the edge of the sphere, too."""

MAX_EDGES = 5_000_000
"""Most edges one structure may have (0.4 GB); real crystals of 200 atoms have 40,000 in 8 Å."""

_NO_VOLUME = 1
_TOO_DENSE = 2
_REASONS = {
    _NO_VOLUME: "its cell has no volume",
    _TOO_DENSE: f"its atoms have more than {MAX_EDGES} neighbours within the radius",
}
# Pairs of atoms per job: some 10 ms of work.
_PAIRS_PER_JOB = 20_000


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Directed edges from each atom to its neighbours, packed over a batch of B structures.

    Edges of atom `i` are rows `atom_offsets[i]:atom_offsets[i + 1]`, shell after shell from the
    nearest; within a shell by `target`, then by `images`, lexicographically. A shell is made of
    neighbours at equal distance: it begins at the nearest neighbour not yet in one, and takes
    in all that are farther by `tolerance` or less. So neither rounding nor the orientation of
    the cell changes the order.

    Attributes:
        source: (E,) int64, the atom, counted over the whole batch; ascending.
        target: (E,) int64, its neighbour, counted likewise.
        images: (E, 3) int64, the neighbour stands at `frac_coords[target] + images`.
        vectors: (E, 3) float64 in Å, from the atom to the neighbour.
        distances: (E,) float64 in Å.
        atom_offsets: (N + 1,) int64, each atom's first edge, and E.
        structure_offsets: (B + 1,) int64, each structure's first edge, and E.
        failures: index of a structure -> why it has no edges.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    images: NDArray[np.int64]
    vectors: NDArray[np.float64]
    distances: NDArray[np.float64]
    atom_offsets: NDArray[np.int64]
    structure_offsets: NDArray[np.int64]
    failures: dict[int, str]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Count the neighbours of each atom, (N,)."""
        return np.diff(self.atom_offsets)


def periodic_neighbours(
    crystals: PackedCells,
    radius: float,
    *,
    nearest: int | None = None,
    whole_shells: bool = False,
    tolerance: float = TIE,
    workers: int | None = None,
) -> Neighbours:
    """Find all neighbours within a radius in Å, or the nearest of them.

    An atom's own images are neighbours; so is another atom on the very same place, at distance
    zero. The sphere takes in what is farther than its radius by TIE or less, as in pymatgen's
    `get_neighbor_list`.

    Args:
        crystals: B structures. All edges are held at once: for many structures call this for a
            part at a time.
        radius: of the sphere around each atom, in Å.
        nearest: keep this many of the nearest; None for all. An atom with fewer neighbours
            within the radius has fewer edges.
        whole_shells: keep also the others of the shell of the last one kept. Otherwise those
            with the lowest `target` and `images` are taken of a shell that is cut.
        tolerance: width of a shell in Å.
        workers: threads to use; None for all cores. The result does not depend on it.

    Returns:
        The edges. A structure whose cell is flat, or has too many neighbours to hold, has none,
        and is named in `failures`.

    Raises:
        ValueError: if radius, nearest or tolerance make no sense.
    """
    if not (0 < radius < math.inf):
        raise ValueError(f"radius must be positive and finite, not {radius}")
    if not (0 <= tolerance < radius):
        raise ValueError(f"tolerance must lie between 0 and the radius, not {tolerance}")
    if nearest is not None and nearest < 1:
        raise ValueError(f"nearest must be at least 1, not {nearest}")
    offsets = crystals.offsets
    parts = chunks_of((crystals.num_atoms * (crystals.num_atoms + 1)).tolist(), _PAIRS_PER_JOB)
    keep = 0 if nearest is None else nearest
    jobs = []
    for part in parts:
        atoms = slice(offsets[part.start], offsets[part.stop])
        cells = np.ascontiguousarray(crystals.lattices[part])
        frac = np.ascontiguousarray(crystals.frac_coords[atoms])
        starts = offsets[part.start : part.stop + 1] - atoms.start
        jobs.append((cells, frac, starts, float(radius), keep, whole_shells, float(tolerance)))
    found = list(in_threads(_search, jobs, workers))
    counts = _joined([piece[0] for piece in found], np.int64)
    first_atoms = [offsets[part.start] for part in parts]
    targets = [piece[1] + first for piece, first in zip(found, first_atoms, strict=True)]
    atom_offsets = np.concatenate([[0], np.cumsum(counts)])
    status = _joined([piece[5] for piece in found], np.int64)
    return Neighbours(
        np.repeat(np.arange(len(counts)), counts),
        _joined(targets, np.int64),
        _joined([piece[2] for piece in found], np.int64, 3),
        _joined([piece[3] for piece in found], np.float64, 3),
        _joined([piece[4] for piece in found], np.float64),
        atom_offsets,
        atom_offsets[offsets],
        {int(b): _REASONS[int(status[b])] for b in np.flatnonzero(status)},
    )


def _joined(pieces: list[NDArray[Any]], dtype: type, width: int | None = None) -> NDArray[Any]:
    """Join arrays one after another; also if there are none."""
    empty: NDArray[Any] = np.empty((0,) if width is None else (0, width), dtype=dtype)
    return np.concatenate([empty, *pieces])


@njit(nogil=True, cache=True)
def _reduced_basis(cell):
    """Tell whether a cell has a volume; find integers T and U = T^-1, with T @ cell reduced."""
    identity = np.eye(3).astype(np.int64)
    lengths = np.sqrt((cell * cell).sum(axis=1))
    volume = abs(np.linalg.det(cell))
    # Also false for infinities and NaN.
    if not (volume > 1e-12 * lengths[0] * lengths[1] * lengths[2] and np.isfinite(volume)):
        return False, identity, identity
    to_reduced = np.floor(reduce_cell(cell) @ np.linalg.inv(cell) + 0.5).astype(np.int64)
    inverse = np.empty((3, 3), dtype=np.int64)
    for i in range(3):
        for j in range(3):  # the adjugate: exact in integers
            a, b, c, d = (j + 1) % 3, (j + 2) % 3, (i + 1) % 3, (i + 2) % 3
            inverse[i, j] = (
                to_reduced[a, c] * to_reduced[b, d] - to_reduced[a, d] * to_reduced[b, c]
            )
    determinant = 0
    for i in range(3):
        determinant += to_reduced[0, i] * inverse[i, 0]
    if abs(determinant) != 1:
        # Rounding has lost the reduction of an absurdly skewed cell; any basis gives the
        # right neighbours, only more slowly.
        return True, identity, identity
    return True, to_reduced, inverse * determinant


@njit(nogil=True, cache=True)
def _lower_triangle(rows):
    """Rotate a cell so that its rows are (x, 0, 0), (x, y, 0), (x, y, z), with y, z > 0."""
    a, b, c = rows[0], rows[1], rows[2]
    lower = np.zeros((3, 3))
    normal = np.cross(a, b)
    area = math.sqrt(normal @ normal)
    lower[0, 0] = math.sqrt(a @ a)
    lower[1, 0] = (a @ b) / lower[0, 0]
    lower[1, 1] = area / lower[0, 0]
    lower[2, 0] = (a @ c) / lower[0, 0]
    lower[2, 1] = (normal @ np.cross(a, c)) / (area * lower[0, 0])
    lower[2, 2] = abs(normal @ c) / area
    return lower


@njit(nogil=True, cache=True)
def _grown(array):
    """Copy an array to one with room for twice as many rows."""
    return np.concatenate((array, np.empty_like(array)))


@njit(nogil=True, cache=True)
def _within(
    i, frac, shifts, to_reduced, rows, lower, radius, most, target, image, vector, distance
):
    """Write every neighbour of atom i within the radius to the buffers, which may grow.

    `frac` are coordinates in the reduced cell `rows`, wrapped by `shifts`. Returns the number of
    neighbours, or -1 if there are more than `most`, and the buffers.
    """
    count = 0
    # The intervals are a little too wide, so that their rounding loses nothing.
    wide = radius + 1e-6
    shift = np.empty(3, dtype=np.int64)
    for j in range(len(frac)):
        d0 = frac[j, 0] - frac[i, 0]
        d1 = frac[j, 1] - frac[i, 1]
        d2 = frac[j, 2] - frac[i, 2]
        half2 = wide / lower[2, 2]
        for w in range(math.ceil(-half2 - d2), math.floor(half2 - d2) + 1):
            f2 = d2 + w
            square2 = wide * wide - (f2 * lower[2, 2]) ** 2
            centre1 = d1 + f2 * lower[2, 1] / lower[1, 1]
            half1 = math.sqrt(max(square2, 0.0)) / lower[1, 1]
            for v in range(math.ceil(-half1 - centre1), math.floor(half1 - centre1) + 1):
                f1 = d1 + v
                square1 = square2 - (f1 * lower[1, 1] + f2 * lower[2, 1]) ** 2
                centre0 = d0 + (f1 * lower[1, 0] + f2 * lower[2, 0]) / lower[0, 0]
                half0 = math.sqrt(max(square1, 0.0)) / lower[0, 0]
                for u in range(math.ceil(-half0 - centre0), math.floor(half0 - centre0) + 1):
                    if i == j and u == 0 and v == 0 and w == 0:
                        continue
                    f0 = d0 + u
                    x = f0 * rows[0, 0] + f1 * rows[1, 0] + f2 * rows[2, 0]
                    y = f0 * rows[0, 1] + f1 * rows[1, 1] + f2 * rows[2, 1]
                    z = f0 * rows[0, 2] + f1 * rows[1, 2] + f2 * rows[2, 2]
                    length = math.sqrt(x * x + y * y + z * z)
                    if not length <= radius:
                        continue
                    if count == most:
                        return -1, target, image, vector, distance
                    if count == len(target):
                        target, image = _grown(target), _grown(image)
                        vector, distance = _grown(vector), _grown(distance)
                    target[count], distance[count] = j, length
                    vector[count, 0], vector[count, 1], vector[count, 2] = x, y, z
                    shift[0] = u - shifts[j, 0] + shifts[i, 0]
                    shift[1] = v - shifts[j, 1] + shifts[i, 1]
                    shift[2] = w - shifts[j, 2] + shifts[i, 2]
                    for axis in range(3):
                        image[count, axis] = (
                            shift[0] * to_reduced[0, axis]
                            + shift[1] * to_reduced[1, axis]
                            + shift[2] * to_reduced[2, axis]
                        )
                    count += 1
    return count, target, image, vector, distance


@njit(nogil=True, cache=True)
def _before(p, q, target, image):
    """Tell whether neighbour p comes before q in one shell."""
    if target[p] != target[q]:
        return target[p] < target[q]
    for axis in range(3):
        if image[p, axis] != image[q, axis]:
            return image[p, axis] < image[q, axis]
    return False


@njit(nogil=True, cache=True)
def _by_shells(count, nearest, tolerance, target, image, distance):
    """Order the neighbours, up to the whole shell that holds the nearest ones wanted.

    Returns the order, the end of that shell, and how far from the atom the shell may reach.
    """
    order = np.argsort(distance[:count])
    end, reach = 0, 0.0
    while end < nearest:
        start = end
        reach = distance[order[start]] + tolerance
        while end < count and distance[order[end]] <= reach:
            p, k = order[end], end
            while k > start and _before(p, order[k - 1], target, image):
                order[k] = order[k - 1]
                k -= 1
            order[k] = p
            end += 1
    return order, end, reach


@njit(nogil=True, cache=True)
def _search(cells, frac_coords, offsets, radius, nearest, whole_shells, tolerance):
    """Find the edges of some structures; `nearest` 0 for all.

    Returns counts (N,), target (E,), image (E, 3), vector (E, 3), distance (E,), status (B,).
    """
    counts = np.zeros(len(frac_coords), dtype=np.int64)
    status = np.zeros(len(cells), dtype=np.int64)
    capacity = max(64, len(frac_coords) * max(nearest, 16))
    targets, images = np.empty(capacity, np.int64), np.empty((capacity, 3), np.int64)
    vectors, distances = np.empty((capacity, 3)), np.empty(capacity)
    target, image = np.empty(256, np.int64), np.empty((256, 3), np.int64)
    vector, distance = np.empty((256, 3)), np.empty(256)
    limit = radius + TIE
    total = 0
    for b in range(len(cells)):
        first, last = offsets[b], offsets[b + 1]
        n = last - first
        solid, to_reduced, inverse = _reduced_basis(cells[b])
        if not solid:
            status[b] = _NO_VOLUME
            continue
        rows = to_reduced.astype(np.float64) @ cells[b]
        lower = _lower_triangle(rows)
        frac = frac_coords[first:last] @ inverse.astype(np.float64)
        shifts = np.floor(frac).astype(np.int64)
        frac -= np.floor(frac)
        # The sphere that would hold twice the atoms asked for, if they were evenly spread.
        volume = lower[0, 0] * lower[1, 1] * lower[2, 2]
        guess = (3 / (4 * math.pi) * (2 * nearest + 4) * volume / n) ** (1 / 3)
        begin = total
        for i in range(n):
            r = min(guess, limit) if nearest > 0 else limit
            while True:
                most = MAX_EDGES if nearest > 0 else MAX_EDGES - (total - begin)
                count, target, image, vector, distance = _within(
                    i, frac, shifts, to_reduced, rows, lower, r, most,
                    target, image, vector, distance,
                )  # fmt: skip
                if count < 0:
                    break
                if r >= limit or count >= nearest:
                    wanted = min(count, nearest) if nearest > 0 else count
                    order, end, reach = _by_shells(
                        count, wanted, tolerance, target, image, distance
                    )
                    # Beyond r the last shell may go on.
                    if r >= limit or reach <= r:
                        break
                r = min(1.3 * r, limit)
            if count < 0:
                status[b] = _TOO_DENSE
                counts[first:last] = 0
                total = begin
                break
            if not whole_shells:
                end = wanted
            counts[first + i] = end
            while total + end > len(targets):
                targets, images = _grown(targets), _grown(images)
                vectors, distances = _grown(vectors), _grown(distances)
            for k in range(end):
                p = order[k]
                targets[total] = target[p] + first
                distances[total] = distance[p]
                images[total] = image[p]
                vectors[total] = vector[p]
                total += 1
    return (
        counts,
        targets[:total].copy(),
        images[:total].copy(),
        vectors[:total].copy(),
        distances[:total].copy(),
        status,
    )
