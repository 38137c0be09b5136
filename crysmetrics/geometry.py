"""Geometry of periodic cells, compiled: reduction, and shortest distances over all images."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crysmetrics.compiled import njit
from crysmetrics.parallel import chunks_of, in_threads


class PackedCells(Protocol):
    """Crystals as packed arrays, of which `crysmetrics.io.Crystals` is one kind."""

    def __len__(self) -> int: ...

    @property
    def lattices(self) -> NDArray[np.float64]:
        """(B, 3, 3) rows in Å."""

    @property
    def frac_coords(self) -> NDArray[np.float64]:
        """(N, 3)."""

    @property
    def num_atoms(self) -> NDArray[np.int64]:
        """(B,)."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(B + 1,) where the atoms of each begin."""


@njit(nogil=True, cache=True)
def reduce_cell(cell):
    """Compute Minkowski-reduced rows (3, 3) of the lattice spanned by `cell`, shortest first.

    Semaev, "A 3-dimensional lattice reduction algorithm" (2001): reduce the two shorter vectors
    by Gauss's algorithm, shorten the third by the nearest vector of their plane, repeat. Rows that
    span no cell end in a zero vector, which is the first row then.
    """
    rows = cell.copy()
    for _ in range(1000):
        lengths = np.array([rows[i] @ rows[i] for i in range(3)])
        rows = rows[np.argsort(lengths)]
        a, b, c = rows[0].copy(), rows[1].copy(), rows[2].copy()
        for _ in range(1000):
            if a @ a == 0.0:
                rows[0], rows[1], rows[2] = a, b, c
                return rows
            b = b - np.round(a @ b / (a @ a)) * a
            if b @ b >= (a @ a) * (1 - 1e-12):
                break
            a, b = b, a
        # Coordinates of c's projection on the plane of a and b.
        aa, ab, bb = a @ a, a @ b, b @ b
        det = aa * bb - ab * ab
        x = (bb * (a @ c) - ab * (b @ c)) / det
        y = (aa * (b @ c) - ab * (a @ c)) / det
        best, best_length = c, np.inf
        for i in range(-1, 2):
            for j in range(-1, 2):
                trial = c - (np.round(x) + i) * a - (np.round(y) + j) * b
                length = trial @ trial
                if length < best_length:
                    best, best_length = trial, length
        rows[0], rows[1], rows[2] = a, b, best
        if best_length >= bb * (1 - 1e-12):
            break
    return rows


@njit(nogil=True, cache=True)
def min_distance(cell, frac):
    """Compute the shortest interatomic distance of one crystal in Å, all periodic images included.

    `cell` (3, 3) has rows in Å, `frac` (n, 3) fractional coordinates; see `min_distances`.
    """
    rows = reduce_cell(cell)
    # An atom and its own image: the shortest lattice vector, first of the reduced cell.
    best = rows[0] @ rows[0]
    if best == 0.0:  # no cell at all: an atom comes as near to its own images as one likes
        return 0.0
    cart = frac @ cell
    reduced = cart @ np.linalg.inv(rows)
    n = len(frac)
    for i in range(n):
        for j in range(i + 1, n):
            d0 = reduced[i, 0] - reduced[j, 0]
            d1 = reduced[i, 1] - reduced[j, 1]
            d2 = reduced[i, 2] - reduced[j, 2]
            d0 -= np.round(d0)
            d1 -= np.round(d1)
            d2 -= np.round(d2)
            # In a Minkowski-reduced cell the nearest image is at most one cell away from the
            # rounded one (Nguyen and Stehlé 2009, Voronoi coordinates of dimension 3).
            for u in range(-1, 2):
                for v in range(-1, 2):
                    for w in range(-1, 2):
                        x = (d0 + u) * rows[0, 0] + (d1 + v) * rows[1, 0] + (d2 + w) * rows[2, 0]
                        y = (d0 + u) * rows[0, 1] + (d1 + v) * rows[1, 1] + (d2 + w) * rows[2, 1]
                        z = (d0 + u) * rows[0, 2] + (d1 + v) * rows[1, 2] + (d2 + w) * rows[2, 2]
                        best = min(best, x * x + y * y + z * z)
    return np.sqrt(best)


@njit(nogil=True, cache=True)
def pair_distances(cell, frac):
    """Compute the shortest distances (n, n) in Å between atoms of one crystal, over all images.

    On the diagonal stands the distance of an atom from its own nearest image. `cell` (3, 3) has
    rows in Å, `frac` (n, 3) fractional coordinates.
    """
    rows = reduce_cell(cell)
    reduced = frac @ cell @ np.linalg.inv(rows)
    n = len(frac)
    out = np.empty((n, n))
    for i in range(n):
        out[i, i] = np.sqrt(rows[0] @ rows[0])
        for j in range(i + 1, n):
            d = reduced[i] - reduced[j]
            d -= np.round(d)
            best = np.inf
            for u in range(-1, 2):  # enough in a reduced cell, see `min_distance`
                for v in range(-1, 2):
                    for w in range(-1, 2):
                        square = 0.0
                        for k in range(3):
                            x = (d[0] + u) * rows[0, k] + (d[1] + v) * rows[1, k]
                            x += (d[2] + w) * rows[2, k]
                            square += x * x
                        best = min(best, square)
            out[i, j] = out[j, i] = np.sqrt(best)
    return out


@njit(nogil=True, cache=True)
def _shortest_of_all(cells, frac, offsets):
    result = np.empty(len(cells))
    for i in range(len(cells)):
        result[i] = min_distance(cells[i], frac[offsets[i] : offsets[i + 1]])
    return result


def min_distances(crystals: PackedCells, workers: int | None = None) -> NDArray[np.float64]:
    """Compute (B,) the shortest interatomic distance of each crystal in Å.

    All periodic images count, an atom's own among them: a crystal of one atom has the length of
    its shortest lattice vector, and one whose cell has no volume has 0.
    """
    if not len(crystals):
        return np.zeros(0)
    offsets = crystals.offsets
    jobs = []
    for part in chunks_of((crystals.num_atoms**2).tolist(), 1_000_000):
        first, last = offsets[part.start], offsets[part.stop]
        frac = np.ascontiguousarray(crystals.frac_coords[first:last])
        jobs.append((crystals.lattices[part], frac, offsets[part.start : part.stop + 1] - first))
    return np.concatenate(list(in_threads(_shortest_of_all, jobs, workers)))
