"""RMS distances of many pairs of crystals, equal to those of pymatgen's StructureMatcher.

Every structure is reduced once to its primitive Niggli cell, however many pairs it stands in.
Pairs of different reduced compositions, or of primitive cells of different sizes, never match and
cost nothing; neither do pairs whose cells no mapping takes to each other within the tolerances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.matching._kernel import compare_pairs, map_pairs
from crysmetrics.matching.cells import MAX_KINDS, ReducedCells, reduce_cells
from crysmetrics.matching.tolerances import Tolerances
from crysmetrics.parallel import in_threads
from crysmetrics.progress import task

STOL, ANGLE_TOL, LTOL = 0.5, 10.0, 0.3
"""Tolerances of all published match rates (CDVAE, DiffCSP and after): of sites as a share of
(V/N)^(1/3), of angles in degrees, of lengths as a share."""

_UNCHANGED = np.arange(MAX_KINDS)[None]

_RMS, _FIT = (1.0, False, False), (1.0, True, True)
"""How pymatgen's `get_rms_dist` and `fit` search: within this share of the tolerance of fractional
coordinates; whether to the first match only; whether by the largest distance."""

_PAIRS_AT_ONCE = 100
"""Pairs in one job of comparison: some 10 ms of work."""

_MAPPINGS_A_PAIR = 64
"""Room for mappings of lattices at first; a pair has 30 of them on average, a cubic one 48."""


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
    """Compute the RMS distances of pairs of crystals, normalised by (V/N)^(1/3).

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
    todo = np.flatnonzero(one.compositions[i] == two.compositions[j])
    tolerances = (stol, angle_tol, ltol)
    result[todo] = _distances(one, two, index[todo], _UNCHANGED, tolerances, _RMS, workers)[:, 0]
    return result


def matches(
    first: ReducedCells,
    second: ReducedCells,
    pairs: NDArray[np.int64],
    tolerances: Tolerances,
    permutations: NDArray[np.int64] = _UNCHANGED,
    workers: int | None = None,
) -> NDArray[np.bool_]:
    """Tell which pairs of crystals are the same crystal, in either order.

    Equals `fit(a, b) or fit(b, a)` of pymatgen's `StructureMatcher(ltol, stol, angle_tol)`: all
    atoms come within `stol` (V/N)^(1/3) of their partners on an average lattice. (`get_rms_dist`
    goes by the root mean square, so that it matches a little more.) pymatgen maps the lattice of
    the first onto that of the second, and near the tolerances one order may match where the other
    does not: taking either makes sameness symmetric.

    Args:
        first, second: of `reduce_cells` or `reduce_arrays`.
        pairs: (P, 2) index into `first` and index into `second`.
        tolerances: of lengths, sites and angles.
        permutations: (C, K) the kinds of atoms that those of one crystal become, in turn of
            either; a pair matches if it does under any of them.
        workers: threads to use; one for each core by default.

    Returns:
        (P,) whether they match.
    """
    found = np.zeros(len(pairs), dtype=bool)
    limits = (tolerances.stol, tolerances.angle_tol, tolerances.ltol)
    for one, two, order in ((first, second, pairs), (second, first, pairs[:, ::-1])):
        todo = np.flatnonzero(~found)
        part = np.ascontiguousarray(order[todo])
        distances = _distances(one, two, part, permutations, limits, _FIT, workers)
        found[todo] = np.isfinite(distances).any(axis=1)
    return found


def permuted_distances(
    first: ReducedCells,
    second: ReducedCells,
    pairs: NDArray[np.int64] | Sequence[Sequence[int]],
    permutations: NDArray[np.int64],
    *,
    stol: float = STOL,
    angle_tol: float = ANGLE_TOL,
    ltol: float = LTOL,
    window: float = 1.0,
    any_mapping: bool = False,
    workers: int | None = None,
) -> NDArray[np.float64]:
    """Compute RMS distances of pairs of crystals under each of several permutations of species.

    Each equals `rms_distances` of the pair with the species of the first crystal renamed, and so
    pymatgen's `get_rms_dist`. Lattices are mapped onto each other once for all permutations.

    Args:
        first, second: see `reduce_arrays`, which takes any numbers for species.
        pairs: (P, 2) index into `first` and index into `second`.
        permutations: (C, K) the species that each of K species of the first crystal becomes.
        stol, angle_tol, ltol: see `rms_distances`.
        window: below 1, only mappings are looked at where every atom has a partner within this
            share of pymatgen's tolerance along each axis, which finds fewer poor matches.
        any_mapping: take the first mapping within the tolerance, not the best: distances are upper
            bounds then, and are finite where they were.
        workers: threads to use; one for each core by default.

    Returns:
        (P, C) distances; NaN where the pair does not match.
    """
    index = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    tolerances = (stol, angle_tol, ltol)
    search = (window, any_mapping, False)
    return _distances(first, second, index, permutations, tolerances, search, workers)


def _distances(
    first: ReducedCells,
    second: ReducedCells,
    pairs: NDArray[np.int64],
    permutations: NDArray[np.int64],
    tolerances: tuple[float, float, float],
    search: tuple[float, bool, bool],
    workers: int | None,
) -> NDArray[np.float64]:
    """Compute (P, C) distances."""
    result = np.full((len(pairs), len(permutations)), np.nan)
    i, j = pairs[:, 0], pairs[:, 1]
    has_cells = np.isfinite(first.cells[i, 0, 0]) & np.isfinite(second.cells[j, 0, 0])
    todo = np.flatnonzero((first.num_atoms[i] == second.num_atoms[j]) & has_cells)
    jobs = [
        (first, second, pairs[todo[k : k + _PAIRS_AT_ONCE]], permutations, tolerances, search)
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
    """Find the reduced cells of the structures that are used, and the indices into them."""
    if isinstance(structures, ReducedCells):
        return structures, column
    used, where = np.unique(column, return_inverse=True)
    return reduce_cells(structures[used], workers), where.reshape(-1)


def _compare(
    first: ReducedCells,
    second: ReducedCells,
    pairs: NDArray[np.int64],
    permutations: NDArray[np.int64],
    tolerances: tuple[float, float, float],
    search: tuple[float, bool, bool],
) -> NDArray[np.float64]:
    """Compute (P, C) distances of pairs with equally many atoms."""
    stol, angle_tol, ltol = tolerances
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
    result = np.empty((count, len(permutations)))
    compare_pairs(
        (first.frac_coords, first.kinds, first.offsets, first.num_atoms),
        (second.frac_coords, second.kinds, second.offsets, second.num_atoms),
        pairs,
        scaled,
        found,
        averages,
        starts,
        permutations,
        stol,
        *search,
        int(first.num_atoms[pairs[:, 0]].max()),
        result,
    )
    return result


def _parameters(shapes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute (M, 6) lengths and angles in degrees, of lengths and cosines."""
    # NumPy's arc cosine, not the compiler's: they differ in the last bit, see `_linear`.
    return np.concatenate([shapes[:, :3], np.rad2deg(np.arccos(shapes[:, 3:]))], axis=1)


def cells_from_parameters(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute (M, 3, 3) rows of cells with these (M, 6) lengths (Å) and angles (degrees).

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
