"""CrystalNN fingerprint of crystals: what surrounds the atoms, in 61 numbers.

The numbers equal those of matminer's ``CrystalNNFingerprint.from_preset("ops")`` averaged over the
sites of a structure: for each coordination number the likelihood that a site has it, and that
likelihood times how well the neighbours match the usual arrangements. The method is that of
Zimmermann & Jain, RSC Adv. 10, 6063 (2020), as found in pymatgen's ``CrystalNN``,
``VoronoiNN`` and ``LocalStructOrderParams``; it is written anew here, in compiled code.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crysmetrics.features import _voronoi
from crysmetrics.features._crystalnn_kernel import (
    MAX_CN,
    N_FEATURES,
    NO_RADIUS,
    fingerprint_range,
)
from crysmetrics.features._element_data import COVALENT_RADIUS, ELECTRONEGATIVITY
from crysmetrics.features._order_parameters import MOTIF_TABLE, MOTIFS

FEATURE_LABELS: tuple[str, ...] = tuple(
    f"{name} CN_{cn}" for cn in range(1, MAX_CN + 1) for name in ("wt", *MOTIFS.get(cn, ()))
)

# Structures per task and worker: enough tasks to balance the load and to report progress.
_TASKS_PER_WORKER = 16

_REASONS = {
    _voronoi.OPEN_CELL: "The Voronoi cell of site {site} is open, or not a number.",
    _voronoi.TOO_DENSE: (
        "More than three million atoms lie within the search radius of site {site}: "
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
    """CrystalNN fingerprints of a batch of crystals.

    Args:
        lattices: (B, 3, 3), rows are lattice vectors in Å.
        frac_coords: (N, 3) fractional coordinates in [0, 1), structure after structure.
        atomic_numbers: (N,) integers from 1 to 118.
        num_atoms: (B,) number of sites of each structure.
        workers: number of threads; all cores by default. The result does not depend on it.
        progress: called with the number of structures just finished.
        per_site: return the numbers of every site, (N, 61), not their means.

    Returns:
        (B, 61) in the order of FEATURE_LABELS, a row of NaN for a structure whose fingerprint cannot
        be computed (all its rows with `per_site`), and the reason for each of those by index.
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
    out = np.full((n, N_FEATURES), np.nan)
    sites_out = np.full((len(frac) if per_site else 0, N_FEATURES), np.nan)
    reasons = _check_input(cells, frac, z, offsets)
    skip = np.zeros(n, dtype=np.bool_)
    skip[list(reasons)] = True
    status = np.zeros(n, dtype=np.int64)
    bad_site = np.zeros(n, dtype=np.int64)

    def run(first: int, last: int) -> int:
        fingerprint_range(
            first, last, cells, frac, z, offsets, ELECTRONEGATIVITY, COVALENT_RADIUS, MOTIF_TABLE,
            skip, status, bad_site, out, per_site, sites_out,
        )  # fmt: skip
        return last - first

    n_workers = max(1, workers if workers is not None else _core_count())
    tasks = _split(offsets, n_workers * _TASKS_PER_WORKER)
    if n_workers == 1 or len(tasks) <= 1:
        for first, last in tasks:
            done = run(first, last)
            if progress is not None:
                progress(done)
    else:
        run(0, 0)  # compile once, in this thread
        with ThreadPoolExecutor(n_workers) as pool:
            for task in as_completed([pool.submit(run, first, last) for first, last in tasks]):
                done = task.result()
                if progress is not None:
                    progress(done)
    for b in np.flatnonzero(status):
        reasons[int(b)] = _REASONS[int(status[b])].format(site=int(bad_site[b]))
        sites_out[offsets[b] : offsets[b + 1]] = np.nan
    return (sites_out if per_site else out), dict(sorted(reasons.items()))


def _core_count() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _split(offsets: NDArray[np.int64], n_tasks: int) -> list[tuple[int, int]]:
    """Ranges of structures with about equal numbers of sites."""
    n = len(offsets) - 1
    if n == 0:
        return []
    aims = np.linspace(0, offsets[-1], min(n_tasks, n) + 1)[1:-1]
    cuts = np.unique(np.concatenate(([0], np.searchsorted(offsets, aims), [n])))
    return [(int(a), int(b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def _check_input(
    cells: NDArray[np.float64],
    frac: NDArray[np.float64],
    z: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> dict[int, str]:
    """Structures that no Voronoi cell can be built for, with the reason."""
    reasons: dict[int, str] = {}
    with np.errstate(all="ignore"):
        volume = np.abs(np.linalg.det(cells)) if len(cells) else np.zeros(0)
        lengths = np.linalg.norm(cells, axis=2)
        flat = ~(volume > 1e-9 * np.prod(lengths, axis=1))
    bad_frac = ~np.isfinite(frac).all(axis=1)
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
