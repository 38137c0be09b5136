"""Bonds of crystals by CrystalNN, as CDVAE builds its graphs.

The settings are those of CDVAE's code: pymatgen's `CrystalNN(distance_cutoffs=None,
x_diff_weight=-1, porous_adjustment=False)`, so that solid angles of Voronoi faces alone decide.
Two sites are bonded if one of them counts the other as a neighbour, as in `StructureGraph`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features import _voronoi
from crysmetrics.features._bond_kernel import site_bonds
from crysmetrics.features._crystalnn_kernel import Structures
from crysmetrics.features.crystalnn import check_input
from crysmetrics.io import Crystals
from crysmetrics.parallel import chunks_of, cpu_count

_WORK_SIZE = 512
_SITES_AT_ONCE = 2000
_REASONS = {
    _voronoi.TOO_DENSE: "the cell is too small for its atoms",
    _voronoi.OPEN_CELL: "its Voronoi cell is open: no atoms close it within the search radius",
    _voronoi.TANGLED: "its Voronoi cell can't be built: neighbours coincide",
}


@dataclass(frozen=True)
class Bonds:
    """Directed bonds of packed crystals; each bond is there in both directions.

    Attributes:
        source, target: (m,) sites at either end, counted within all crystals.
        images: (m, 3) whole lattice vectors from the cell of `target` to that of `source`.
        vectors: (m, 3) from `target` to `source` in Å.
        failures: reason by index, of crystals without bonds.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    images: NDArray[np.int64]
    vectors: NDArray[np.float64]
    failures: dict[int, str]


def crystalnn_bonds(crystals: Crystals, workers: int | None = None) -> Bonds:
    """Find the bonds of crystals by CrystalNN with CDVAE's settings.

    Args:
        crystals: B structures.
        workers: threads; all cores by default. The result does not depend on it.
    """
    cells = np.ascontiguousarray(crystals.lattices, dtype=np.float64)
    frac = np.ascontiguousarray(crystals.frac_coords, dtype=np.float64)
    z = np.ascontiguousarray(crystals.atomic_numbers, dtype=np.int64)
    offsets = np.concatenate(([0], np.cumsum(crystals.num_atoms))).astype(np.int64)
    failures = check_input(cells, frac, z, offsets)
    skip = np.zeros(len(crystals), dtype=np.bool_)
    skip[list(failures)] = True

    def run(part: slice) -> tuple[NDArray[np.int64], NDArray[np.float64], dict[int, str]]:
        sites = slice(offsets[part.start], offsets[part.stop])
        starts = offsets[part.start : part.stop + 1] - offsets[part.start]
        status = np.zeros(part.stop - part.start, dtype=np.int64)
        bad_site = np.zeros_like(status)
        ends, vectors = site_bonds(
            Structures(cells[part], frac[sites], z[sites], starts, skip[part]),
            _WORK_SIZE,
            16 * (int(starts[-1]) + 1),
            status,
            bad_site,
        )
        reasons = {
            part.start + int(b): f"Site {bad_site[b]} has no bonds: {_REASONS[int(status[b])]}."
            for b in np.flatnonzero(status)
        }
        return ends + sites.start, vectors, reasons

    parts = chunks_of(crystals.num_atoms.tolist(), _SITES_AT_ONCE)
    with ThreadPoolExecutor(cpu_count(workers)) as pool:
        found = list(pool.map(run, parts))
    for _, _, reasons in found:
        failures.update(reasons)
    ends = np.concatenate([np.empty((0, 2), dtype=np.int64), *(ends for ends, _, _ in found)])
    vectors = np.concatenate([np.empty((0, 3)), *(vectors for _, vectors, _ in found)])
    return _both_ways(crystals, ends, vectors, dict(sorted(failures.items())))


def _both_ways(
    crystals: Crystals,
    ends: NDArray[np.int64],
    vectors: NDArray[np.float64],
    failures: dict[int, str],
) -> Bonds:
    """Give each bond once in each direction, whichever of its ends counted the other."""
    # Only of crystals that have bonds: the cell of another one may have no inverse.
    owners, owner = np.unique(crystals.structure_index[ends[:, 0]], return_inverse=True)
    inverse = np.linalg.inv(crystals.lattices[owners])
    shift = np.einsum("mi,mij->mj", vectors, inverse[owner])
    shift -= crystals.frac_coords[ends[:, 1]] - crystals.frac_coords[ends[:, 0]]
    images = np.rint(shift).astype(np.int64)
    target = np.concatenate([ends[:, 0], ends[:, 1]])
    source = np.concatenate([ends[:, 1], ends[:, 0]])
    images = np.concatenate([images, -images])
    vectors = np.concatenate([vectors, -vectors])
    keys = np.column_stack([target, source, images])
    _, first = np.unique(keys, axis=0, return_index=True)
    return Bonds(source[first], target[first], images[first], vectors[first], failures)
