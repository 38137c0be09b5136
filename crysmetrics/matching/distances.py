"""RMS distances of many pairs of crystals, equal to those of pymatgen's StructureMatcher.

Every structure is reduced once to its primitive Niggli cell, however many pairs it stands in.
Pairs of different reduced compositions, or of primitive cells of different sizes, never match and
cost nothing; neither do pairs whose cells no mapping takes to each other within the tolerances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.matching._kernel import compare_pairs, map_pairs
from crysmetrics.matching._lattices import niggli_all
from crysmetrics.matching._primitive import shrink_all
from crysmetrics.parallel import chunks_of, in_threads
from crysmetrics.progress import task

STOL, ANGLE_TOL, LTOL = 0.5, 10.0, 0.3
"""Tolerances of all published match rates (CDVAE, DiffCSP and after)."""

_REDUCED_AT_ONCE = 2000
"""Atoms in the structures of one job of reduction: some 10 ms of work."""

_PAIRS_AT_ONCE = 100
"""Pairs in one job of comparison: some 10 ms of work."""

_MAPPINGS_A_PAIR = 64
"""Room for mappings of lattices at first; a pair has 30 of them on average, a cubic one 48."""

# pymatgen puts elements in the alphabetical order of their symbols.
_KINDS = np.argsort(np.argsort(np.array(SYMBOLS))).astype(np.int64)

# Sums of these over a cell's atoms differ where compositions do; that some day two might not costs
# a comparison, which looks at the elements themselves.
_WEIGHTS = np.random.default_rng(0).integers(1, 2**63, len(SYMBOLS), dtype=np.uint64)


@dataclass(frozen=True, eq=False)
class ReducedCells:
    """Structures in their primitive Niggli cells, as StructureMatcher compares them.

    Attributes:
        cells: (B, 3, 3) rows in Å; NaN where a cell can't be reduced because it has no volume.
        frac_coords: (N, 3), with room for the atoms that the structures had before.
        kinds: (N,) elements, numbered in the alphabetical order of their symbols.
        offsets: (B,) first atom of each structure.
        num_atoms: (B,) number of atoms of each.
        compositions: (B,) keys that are equal where atoms of the primitive cells are the same.
    """

    cells: NDArray[np.float64]
    frac_coords: NDArray[np.float64]
    kinds: NDArray[np.int64]
    offsets: NDArray[np.int64]
    num_atoms: NDArray[np.int64]
    compositions: NDArray[np.uint64]


def reduce_cells(crystals: Crystals, workers: int | None = None) -> ReducedCells:
    """Primitive Niggli cells of crystals (B structures)."""
    cells, frac = crystals.lattices.copy(), crystals.frac_coords.copy()
    kinds = _KINDS[crystals.atomic_numbers]
    offsets, counts = crystals.offsets[:-1].copy(), crystals.num_atoms.copy()
    if not len(crystals):
        return ReducedCells(cells, frac, kinds, offsets, counts, np.zeros(0, dtype=np.uint64))
    # What has no volume has no Niggli cell; its inverse would only raise errors.
    cells[~(np.abs(np.linalg.det(cells)) > 1e-8)] = np.nan
    jobs = [
        (cells[part], frac, kinds, offsets[part], counts[part])
        for part in chunks_of(counts.tolist(), _REDUCED_AT_ONCE)
    ]
    for _ in in_threads(_reduce, jobs, workers):
        pass
    weights = _WEIGHTS[kinds]
    rank = np.arange(len(kinds)) - np.repeat(offsets, crystals.num_atoms)
    weights[rank >= np.repeat(counts, crystals.num_atoms)] = 0
    return ReducedCells(cells, frac, kinds, offsets, counts, np.add.reduceat(weights, offsets))


def _reduce(
    cells: NDArray[np.float64],
    frac: NDArray[np.float64],
    kinds: NDArray[np.int64],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Reduce some structures in place, each primitive step followed by a Niggli reduction."""
    steps = np.zeros(len(cells), dtype=np.int64)
    niggli_all(cells, frac, offsets, counts, np.flatnonzero(np.isfinite(cells[:, 0, 0])))
    shrink_all(cells, frac, kinds, offsets, counts, steps)
    for done in range(int(steps.max())):
        again = np.flatnonzero((steps > done) & np.isfinite(cells[:, 0, 0]))
        niggli_all(cells, frac, offsets, counts, again)


def rms_distances(
    first: Crystals | ReducedCells,
    second: Crystals | ReducedCells,
    pairs: NDArray[np.int64] | Sequence[Sequence[int]],
    *,
    stol: float = STOL,
    angle_tol: float = ANGLE_TOL,
    ltol: float = LTOL,
    workers: int | None = None,
) -> NDArray[np.float64]:
    """RMS distances of pairs of crystals, normalised by (V/N)^(1/3).

    Equals `StructureMatcher(ltol, stol, angle_tol).get_rms_dist(a, b)[0]` of pymatgen with `a`
    from `first` and `b` from `second`; the order of arguments matters a little there, and the
    published one is (prediction, target).

    Args:
        first: predictions.
        second: targets. Give both as `reduce_cells` returns them where they are used again.
        pairs: (P, 2) index into `first` and index into `second`.
        stol, angle_tol, ltol: tolerances: of sites as a share of (V/N)^(1/3), of angles in
            degrees, of lengths as a share.
        workers: threads to use; one for each core by default.

    Returns:
        (P,) distances; NaN where the pair does not match.
    """
    index = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    result = np.full(len(index), np.nan)
    if not len(index):
        return result
    one, i = _prepared(first, index[:, 0], workers)
    two, j = _prepared(second, index[:, 1], workers)
    index = np.stack([i, j], axis=1)
    same = (one.num_atoms[i] == two.num_atoms[j]) & (one.compositions[i] == two.compositions[j])
    todo = np.flatnonzero(same)
    jobs = [
        (one, two, index[todo[k : k + _PAIRS_AT_ONCE]], stol, angle_tol, ltol)
        for k in range(0, len(todo), _PAIRS_AT_ONCE)
    ]
    found = []
    with task("Matching structures", len(todo)) as advance:
        for part in in_threads(_compare, jobs, workers):
            found.append(part)
            advance(len(part))
    if found:
        result[todo] = np.concatenate(found)
    return result


def _prepared(
    structures: Crystals | ReducedCells, column: NDArray[np.int64], workers: int | None
) -> tuple[ReducedCells, NDArray[np.int64]]:
    """Reduced cells of the structures that are used, and the indices into them."""
    if isinstance(structures, ReducedCells):
        return structures, column
    used, where = np.unique(column, return_inverse=True)
    return reduce_cells(structures[used], workers), where.reshape(-1)


def _compare(
    first: ReducedCells,
    second: ReducedCells,
    pairs: NDArray[np.int64],
    stol: float,
    angle_tol: float,
    ltol: float,
) -> NDArray[np.float64]:
    """(P,) distances of pairs of equal composition."""
    count, size = len(pairs), _MAPPINGS_A_PAIR * len(pairs)
    scaled, wanted = np.empty((count, 2, 3, 3)), np.empty((count, 6))
    found, shapes = np.empty((size, 3, 3)), np.empty((size, 6))
    starts = np.zeros(count + 1, dtype=np.int64)
    done = 0
    while done < count:
        done = map_pairs(
            first.cells, second.cells, pairs, done, ltol, angle_tol, scaled, wanted, found, shapes,
            starts,
        )  # fmt: skip
        if done < count:  # needle-like cells have thousands of mappings
            found = np.concatenate([found, np.empty_like(found)])
            shapes = np.concatenate([shapes, np.empty_like(shapes)])
    total = starts[-1]
    owner = np.repeat(np.arange(count), np.diff(starts))
    averages = cells_from_parameters((_parameters(shapes[:total]) + _parameters(wanted)[owner]) / 2)
    result = np.empty(count)
    compare_pairs(
        (first.frac_coords, first.kinds, first.offsets, first.num_atoms),
        (second.frac_coords, second.kinds, second.offsets, second.num_atoms),
        pairs,
        scaled,
        found,
        averages,
        starts,
        stol,
        int(first.num_atoms[pairs[:, 0]].max()),
        result,
    )
    return result


def _parameters(shapes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, 6) lengths and angles in degrees, of lengths and cosines."""
    # NumPy's arc cosine, not the compiler's: they differ in the last bit, see `_linear`.
    return np.concatenate([shapes[:, :3], np.rad2deg(np.arccos(shapes[:, 3:]))], axis=1)


def cells_from_parameters(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, 3, 3) rows of cells with these (M, 6) lengths (Å) and angles (degrees).

    c points along z, a lies in the plane of x and z: pymatgen's convention.
    """
    a, b, c = parameters[:, :3].T
    angles = np.radians(parameters[:, 3:])
    (cos_alpha, cos_beta, cos_gamma), (sin_alpha, sin_beta, _) = np.cos(angles).T, np.sin(angles).T
    cosine = (cos_alpha * cos_beta - cos_gamma) / (sin_alpha * sin_beta)
    gamma_star = np.arccos(np.clip(cosine, -1, 1))
    cells = np.zeros((len(parameters), 3, 3))
    cells[:, 0, 0], cells[:, 0, 2] = a * sin_beta, a * cos_beta
    cells[:, 1, 0] = -b * sin_alpha * np.cos(gamma_star)
    cells[:, 1, 1] = b * sin_alpha * np.sin(gamma_star)
    cells[:, 1, 2] = b * cos_alpha
    cells[:, 2, 2] = c
    return cells


def group_duplicates(
    crystals: Crystals,
    *,
    stol: float = STOL,
    angle_tol: float = ANGLE_TOL,
    ltol: float = LTOL,
    workers: int | None = None,
) -> NDArray[np.int64]:
    """(B,) labels: equal where crystals are the same structure, numbered by first occurrence.

    The first crystal that is in no group yet is compared with all later ones of its primitive
    composition, and those that it matches join its group (as in pymatgen's `group_structures`,
    by RMS distance where that goes by the largest distance). Give crystals in the order of
    preference: each group's first is its representative.

    Args:
        crystals: B structures.
        stol, angle_tol, ltol, workers: see `rms_distances`.
    """
    reduced = reduce_cells(crystals, workers)
    _, family = np.unique(reduced.compositions, return_inverse=True)
    family = family.reshape(-1)
    leader_of = np.arange(len(crystals))
    waiting = np.arange(len(crystals))
    while len(waiting):
        # The first of every composition at once, so that there are many pairs to a call.
        families, first = np.unique(family[waiting], return_index=True)
        leaders = np.full(len(family), -1)
        leaders[families] = waiting[first]
        rest = np.setdiff1d(waiting, waiting[first])
        pairs = np.stack([leaders[family[rest]], rest], axis=1)
        same = np.isfinite(
            rms_distances(
                reduced, reduced, pairs, stol=stol, angle_tol=angle_tol, ltol=ltol, workers=workers
            )
        )
        leader_of[rest[same]] = pairs[same, 0]
        waiting = rest[~same]
    return np.unique(leader_of, return_inverse=True)[1].reshape(-1).astype(np.int64)
