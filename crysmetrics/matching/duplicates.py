"""Groups of crystals that are the same structure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io import Crystals
from crysmetrics.matching.cells import reduce_cells
from crysmetrics.matching.distances import ANGLE_TOL, LTOL, STOL, rms_distances


def group_duplicates(
    crystals: Crystals,
    *,
    stol: float = STOL,
    angle_tol: float = ANGLE_TOL,
    ltol: float = LTOL,
    workers: int | None = None,
) -> NDArray[np.int64]:
    """Label (B,) crystals by structure: equal labels for equal ones, numbered as they first occur.

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
