"""Nearest neighbours between two sets of fingerprints, exact and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysmetrics.progress import task

Array = NDArray[np.float64]
BLOCK_BYTES = 128 * 1024**2
"""Memory for one block of distances; a handful of such blocks live at a time."""


@dataclass(frozen=True)
class Nearest:
    """Per structure of one set, against the other; `inf` where there is nothing to measure.

    Attributes:
        structure: (n,) smallest structure distance.
        composition: (n,) smallest composition distance.
        structure_within: (n,) smallest structure distance to those within the composition
            threshold.
        composition_within: (n,) smallest composition distance to those within the structure
            threshold.
        index: (n,) where the smallest structure distance is.
    """

    structure: Array
    composition: Array
    structure_within: Array
    composition_within: Array
    index: NDArray[np.intp]

    @classmethod
    def nothing(cls, n: int) -> Nearest:
        """Make the result of nothing measured yet."""
        a, b, c, d = (np.full(n, np.inf) for _ in range(4))
        return cls(a, b, c, d, np.full(n, -1))

    def nearer(self, other: Nearest, offset: int) -> Nearest:
        """Join results against two sets; `other`'s indices start at `offset`."""
        closer = other.structure < self.structure
        return Nearest(
            np.minimum(self.structure, other.structure),
            np.minimum(self.composition, other.composition),
            np.minimum(self.structure_within, other.structure_within),
            np.minimum(self.composition_within, other.composition_within),
            np.where(closer, other.index + offset, self.index),
        )


def nearest_both_ways(
    gen: tuple[Array, Array],
    ref: tuple[Array, Array],
    structure_threshold: float,
    composition_threshold: float,
) -> tuple[Nearest, Nearest]:
    """Find the nearest references of generated structures, and the other way round.

    Args:
        gen: structure (n, 61) and normalised composition (n, 132) fingerprints; a structure
            whose row holds NaN is far from everything.
        ref: the same of the m reference structures.
        structure_threshold, composition_threshold: inclusive, as in CDVAE's script.
    """
    ours, theirs = Nearest.nothing(len(gen[0])), Nearest.nothing(len(ref[0]))
    rows = np.flatnonzero(np.isfinite(gen[0]).all(axis=1) & np.isfinite(gen[1]).all(axis=1))
    columns = np.flatnonzero(np.isfinite(ref[0]).all(axis=1) & np.isfinite(ref[1]).all(axis=1))
    if not len(rows) or not len(columns):
        return ours, theirs
    targets = [_Prepared(ref[k][columns]) for k in (0, 1)]
    best = Nearest.nothing(len(columns))
    with task("Nearest neighbours", len(rows)) as advance:
        for part in _blocks(len(rows), len(columns)):
            block = rows[part]
            structure = targets[0].distances(gen[0][block])
            composition = targets[1].distances(gen[1][block])
            near_structure = structure <= structure_threshold
            near_composition = composition <= composition_threshold
            index = structure.argmin(axis=1)
            ours.index[block] = columns[index]
            ours.structure[block] = structure[np.arange(len(block)), index]
            ours.composition[block] = composition.min(axis=1)
            column_index = structure.argmin(axis=0)
            smallest = structure[column_index, np.arange(len(columns))]
            closer = smallest < best.structure
            best.index[closer] = block[column_index[closer]]
            best.structure[closer] = smallest[closer]
            np.minimum(best.composition, composition.min(axis=0), out=best.composition)
            structure[~near_composition] = np.inf
            composition[~near_structure] = np.inf
            ours.structure_within[block] = structure.min(axis=1)
            ours.composition_within[block] = composition.min(axis=1)
            for total, now in (
                (best.structure_within, structure.min(axis=0)),
                (best.composition_within, composition.min(axis=0)),
            ):
                np.minimum(total, now, out=total)
            advance(len(block))
    for name in ("structure", "composition", "structure_within", "composition_within", "index"):
        getattr(theirs, name)[columns] = getattr(best, name)
    return ours, theirs


def distance_sums(points: Array) -> Array:
    """Sum each point's distances to all n points (n, d), in blocks; returns (n,)."""
    prepared, sums = _Prepared(points), np.empty(len(points))
    with task("Pairwise distances", len(points)) as advance:
        for part in _blocks(len(points), len(points)):
            sums[part] = prepared.distances(points[part]).sum(axis=1)
            advance(part.stop - part.start)
    return sums


class _Prepared:
    """Points to which distances are measured, by one matrix product a block.

    |x - y|² = |x|² + |y|² - 2 x·y loses digits where x and y nearly coincide; those distances
    are computed again from the difference, so that equal points are at distance exactly 0.
    Points that occur many times (the compositions of Carbon-24 are all equal) are measured once.
    """

    def __init__(self, points: Array) -> None:
        self.centre = points.mean(axis=0)
        points, self.inverse = _distinct(points)
        self.points = np.ascontiguousarray(points - self.centre)
        self.squares = np.einsum("ij,ij->i", self.points, self.points)

    def distances(self, others: Array) -> Array:
        """(len(others), number of points)."""
        others, inverse = _distinct(others)
        others = others - self.centre
        squares = np.einsum("ij,ij->i", others, others)
        result = others @ self.points.T
        result *= -2
        result += squares[:, None]
        result += self.squares[None, :]
        # Relative to the terms that cancel, 1e-6 leaves nine digits of a double.
        scale = squares.max(initial=0.0) + self.squares.max(initial=0.0)
        i, j = np.nonzero(result <= 1e-6 * scale)
        for k in range(0, len(i), 20_000):  # bounded memory, however many coincide
            a, b = i[k : k + 20_000], j[k : k + 20_000]
            difference = others[a] - self.points[b]
            result[a, b] = np.einsum("ij,ij->i", difference, difference)
        np.sqrt(result, out=result)
        if inverse is not None:
            result = result[inverse]
        return result if self.inverse is None else result[:, self.inverse]


def _distinct(points: Array) -> tuple[Array, NDArray[np.intp] | None]:
    """Distinct rows and where each row went, or all rows and None if most are distinct."""
    unique, inverse = np.unique(points, axis=0, return_inverse=True)
    if 2 * len(unique) > len(points):
        return points, None
    return unique, inverse.reshape(-1)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    height = max(1, BLOCK_BYTES // (8 * columns))
    for start in range(0, rows, height):
        yield slice(start, min(rows, start + height))
