"""CrystalNN fingerprint of crystals: what surrounds the atoms, in 61 numbers.

The numbers equal those of matminer's ``CrystalNNFingerprint.from_preset("ops")`` averaged over the
sites of a structure: for each coordination number the likelihood that a site has it, and that
likelihood times how well the neighbours match the usual arrangements. The method is that of
Zimmermann & Jain, RSC Adv. 10, 6063 (2020), as found in pymatgen's ``CrystalNN``,
``VoronoiNN`` and ``LocalStructOrderParams``; it is written anew here, in compiled code.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysmetrics.features import _voronoi
from crysmetrics.features._crystalnn_kernel import (
    MAX_CN,
    N_FEATURES,
    NO_RADIUS,
    Outcome,
    Structures,
    site_fingerprints,
)
from crysmetrics.features._element_data import COVALENT_RADIUS, ELECTRONEGATIVITY
from crysmetrics.features._order_parameters import MOTIF_TABLE, MOTIFS
from crysmetrics.features._qhull_path import PeerError, peer_site
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.parallel import cpu_count
from crysmetrics.progress import task

FEATURE_LABELS: tuple[str, ...] = tuple(
    f"{name} CN_{cn}" for cn in range(1, MAX_CN + 1) for name in ("wt", *MOTIFS.get(cn, ()))
)

# Smallest change of a structure's number by the order of equal neighbours that is followed up.
_VISIBLE = 2e-7

# Atoms, corners or planes that the work arrays hold to begin with.
_WORK_SIZE = 512

# Structures per task and worker: enough tasks to balance the load and to report progress.
_TASKS_PER_WORKER = 16

_REASONS = {
    _voronoi.TOO_DENSE: (
        "More than half a million atoms lie within the search radius of site {site}: "
        "the cell is too small for its atoms."
    ),
    _voronoi.TANGLED: (
        "The Voronoi cell of site {site} could not be built: its neighbours coincide or lie "
        "in degenerate positions."
    ),
    NO_RADIUS: (
        "Site {site} or one of its neighbours is an element without a tabulated covalent radius."
    ),
}


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of CrystalNN fingerprints (B, 61), labelled as matminer labels them."""
    parameters = {"preset": "ops", "statistic": "mean"}
    return Extractor(name, "crysmetrics 1", FEATURE_LABELS, _compute, parameters)


def _compute(crystals: Crystals, workers: int | None) -> tuple[NDArray[np.float64], dict[int, str]]:
    with task("CrystalNN fingerprints", len(crystals)) as advance:
        return crystalnn_fingerprints(
            crystals.lattices,
            crystals.frac_coords,
            crystals.atomic_numbers,
            crystals.num_atoms,
            workers=workers,
            progress=advance,
        )


def crystalnn_fingerprints(
    lattices: ArrayLike,
    frac_coords: ArrayLike,
    atomic_numbers: ArrayLike,
    num_atoms: ArrayLike,
    *,
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
    per_site: bool = False,
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Compute the CrystalNN fingerprints of a batch of crystals.

    Args:
        lattices: (B, 3, 3), rows are lattice vectors in Å.
        frac_coords: (N, 3) fractional coordinates in [0, 1), structure after structure.
        atomic_numbers: (N,) integers from 1 to 118.
        num_atoms: (B,) number of sites of each structure.
        workers: number of threads; all cores by default. The result does not depend on it.
        progress: called with the number of structures just finished.
        per_site: return the numbers of every site, (N, 61), not their means.

    Returns:
        (B, 61) in the order of FEATURE_LABELS, a row of NaN for a structure whose fingerprint
        cannot be computed (all its rows with `per_site`), and the reasons by structure index.
    """
    cells = np.ascontiguousarray(lattices, dtype=np.float64).reshape(-1, 3, 3)
    frac = np.ascontiguousarray(frac_coords, dtype=np.float64).reshape(-1, 3)
    z = np.ascontiguousarray(atomic_numbers, dtype=np.int64).reshape(-1)
    counts = np.ascontiguousarray(num_atoms, dtype=np.int64).reshape(-1)
    n = len(counts)
    if len(cells) != n:
        raise ValueError(f"{len(cells)} lattices for {n} structures")
    if np.any(counts < 0) or counts.sum() != len(frac) or len(z) != len(frac):
        raise ValueError(
            f"num_atoms adds up to {counts.sum()}, but there are {len(frac)} positions "
            f"and {len(z)} atomic numbers"
        )
    offsets = np.concatenate(([0], np.cumsum(counts)))
    out = np.full((len(frac) if per_site else n, N_FEATURES), np.nan)
    reasons = check_input(cells, frac, z, offsets)
    skip = np.zeros(n, dtype=np.bool_)
    skip[list(reasons)] = True

    def run(first: int, last: int) -> dict[int, str]:
        """Compute structures first to last - 1; every task writes to its own rows of `out`."""
        sites = slice(offsets[first], offsets[last])
        starts = offsets[first : last + 1] - offsets[first]
        numbers, failed = _fingerprint_sites(
            Structures(cells[first:last], frac[sites], z[sites], starts, skip[first:last])
        )
        if per_site:
            out[sites] = numbers
        else:
            for b in np.flatnonzero(np.diff(starts)).tolist():
                out[first + b] = numbers[starts[b] : starts[b + 1]].mean(axis=0)
        return {first + b: why for b, why in failed.items()}

    n_workers = cpu_count(workers)
    tasks = _split(offsets, n_workers * _TASKS_PER_WORKER)
    with ThreadPoolExecutor(n_workers) as pool:
        waiting = {pool.submit(run, first, last): last - first for first, last in tasks}
        for future in as_completed(waiting):
            reasons.update(future.result())
            if progress is not None:
                progress(waiting[future])
    return out, dict(sorted(reasons.items()))


def _fingerprint_sites(structures: Structures) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Compute the numbers of all sites (N, 61), NaN where a structure fails or is skipped."""
    n, n_sites = len(structures.lattices), len(structures.z)
    done = Outcome(
        numbers=np.full((n_sites, N_FEATURES), np.nan),
        status=np.zeros(n, dtype=np.int64),
        bad_site=np.zeros(n, dtype=np.int64),
        crowded=np.zeros(n, dtype=np.bool_),
        n_open=np.zeros(n_sites, dtype=np.int64),
        doubt=np.zeros(n_sites),
    )
    site_fingerprints(structures, ELECTRONEGATIVITY, COVALENT_RADIUS, MOTIF_TABLE, _WORK_SIZE, done)
    reasons: dict[int, str] = {}
    for b in range(n):
        sites = slice(structures.offsets[b], structures.offsets[b + 1])
        status, radii, doubt = done.status[b], done.n_open[sites], done.doubt[sites]
        if done.crowded[b] or status == _voronoi.TANGLED:
            radii[:] = _voronoi.UNCERTAIN
            status = _voronoi.OK
        elif doubt.sum() > _VISIBLE * len(radii):
            radii[doubt > 0.1 * _VISIBLE] = _voronoi.UNCERTAIN
        if status:
            reasons[b] = _REASONS[int(status)].format(site=int(done.bad_site[b]))
        elif radii.any():
            failure = _follow_peer(
                structures.lattices[b], structures.frac[sites], structures.z[sites], radii,
                done.numbers[sites],
            )  # fmt: skip
            if failure is not None:
                reasons[b] = failure
        if b in reasons:
            done.numbers[sites] = np.nan
    return done.numbers, reasons


def _follow_peer(
    cell: NDArray[np.float64],
    frac: NDArray[np.float64],
    z: NDArray[np.int64],
    radii: NDArray[np.int64],
    numbers: NDArray[np.float64],
) -> str | None:
    """Recompute some sites of a structure by the peer's path; `numbers` (n, 61) is corrected.

    Args:
        radii: (n,) number of search radii to try, 0 for sites that are settled.

    Returns:
        Why a site fails, if one does.
    """
    for site in np.flatnonzero(radii).tolist():
        try:
            row = peer_site(cell, frac, z, site, int(radii[site]))
        except PeerError as error:
            return f"Site {site} has no neighbours in pymatgen's CrystalNN: {error}."
        if row is not None:
            numbers[site] = row
        elif np.isnan(numbers[site, 0]):
            return _REASONS[_voronoi.TANGLED].format(site=site)
    return None


def _split(offsets: NDArray[np.int64], n_tasks: int) -> list[tuple[int, int]]:
    """Split structures into ranges with about equal numbers of sites."""
    n = len(offsets) - 1
    if n == 0:
        return []
    aims = np.linspace(0, offsets[-1], min(n_tasks, n) + 1)[1:-1]
    cuts = np.unique(np.concatenate(([0], np.searchsorted(offsets, aims), [n])))
    return list(pairwise(cuts.tolist()))


def check_input(
    cells: NDArray[np.float64],
    frac: NDArray[np.float64],
    z: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> dict[int, str]:
    """Find structures that no Voronoi cell can be built for, with the reason."""
    reasons: dict[int, str] = {}
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(cells, axis=2)
        volumes = np.abs(np.linalg.det(cells))
        flat = np.logical_not(volumes > 1e-9 * np.prod(lengths, axis=1))
    bad_frac = np.logical_not(np.isfinite(frac).all(axis=1))
    bad_z = (z < 1) | (z > 118)
    for b in range(len(cells)):
        sites = slice(offsets[b], offsets[b + 1])
        if offsets[b] == offsets[b + 1]:
            reasons[b] = "The structure has no atoms."
        elif not np.isfinite(cells[b]).all():
            reasons[b] = "The lattice has an entry that is not a finite number."
        elif flat[b]:
            reasons[b] = "The cell has no volume."
        elif bad_frac[sites].any():
            site = int(np.flatnonzero(bad_frac[sites])[0])
            reasons[b] = f"Site {site} has a coordinate that is not a finite number."
        elif bad_z[sites].any():
            site = int(np.flatnonzero(bad_z[sites])[0])
            reasons[b] = f"Site {site} has an atomic number outside 1 to 118."
    return reasons
