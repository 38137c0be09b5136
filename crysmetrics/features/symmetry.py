"""Space groups of crystals, as a feature: one number a structure, cached like all others.

Found by moyo, the successor of spglib by some of its authors, which is ten times as fast; the
numbers agree but for structures at the edge of the tolerance.
"""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals
from crysmetrics.io.parsed import one_line
from crysmetrics.progress import task

TOLERANCE = 0.1
"""Å within which symmetry is found; generated structures have none within 0.01 Å."""
LABELS = ("space_group",)

_FLAT = 1.0
"""Å; cells whose matrix has a smaller singular value go to spglib: moyo may not come to an end."""


def extractor(name: str, run: Run) -> Extractor:
    """Space group numbers (B, 1), 1 to 230."""
    made_by = f"crysmetrics 1, moyopy {version('moyopy')}"
    return Extractor(name, made_by, LABELS, _compute, {"tolerance": TOLERANCE})


def _compute(crystals: Crystals, workers: int | None) -> tuple[NDArray[np.float64], dict[int, str]]:
    # Half a millisecond a structure, in code that holds the GIL: not worth processes.
    return space_groups(crystals, workers=workers)


def space_groups(
    crystals: Crystals, tolerance: float = TOLERANCE, workers: int | None = None
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Space group numbers (B, 1) within a tolerance in Å; NaN with a reason where none is found."""
    import moyopy

    # It warns of every cell that is not primitive in some setting, which is no news here.
    logging.getLogger("moyo").setLevel(logging.ERROR)
    numbers = np.full((len(crystals), 1), np.nan)
    failures: dict[int, str] = {}
    # Where atoms or their images lie within the tolerance, symmetry means nothing.
    apart = min_distances(crystals, workers) > tolerance
    flat = np.linalg.svd(crystals.lattices, compute_uv=False)[:, -1] < _FLAT
    offsets = crystals.offsets
    with task("Space groups", len(crystals)) as advance:
        for i in range(len(crystals)):
            atoms = slice(offsets[i], offsets[i + 1])
            cell = (
                crystals.lattices[i].tolist(),
                crystals.frac_coords[atoms].tolist(),
                crystals.atomic_numbers[atoms].tolist(),
            )
            if not apart[i]:
                failures[i] = f"Atoms or their images lie within {tolerance:g} Å of each other."
            elif flat[i]:
                found = _by_spglib(cell, tolerance)
                if found is None:
                    failures[i] = "No space group was found."
                else:
                    numbers[i] = found
            else:
                try:
                    numbers[i] = moyopy.MoyoDataset(moyopy.Cell(*cell), symprec=tolerance).number
                except ValueError as error:
                    failures[i] = one_line(error)
            advance(1)
    return numbers, failures


def _by_spglib(cell: tuple[Any, Any, Any], tolerance: float) -> int | None:
    import spglib

    dataset = spglib.get_symmetry_dataset(cell, symprec=tolerance)
    return None if dataset is None else int(dataset.number)
