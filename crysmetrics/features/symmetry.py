"""Space groups of crystals, as a feature: one number a structure, cached like all others."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.symmetry import TOLERANCE, find_space_groups

LABELS = ("space_group",)
TOLERANCES = {"space_group": TOLERANCE, "space_group_tight": 0.01}
"""Å within which symmetry is found, by name of the features."""


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of space group numbers (B, 1), 1 to 230."""
    made_by = f"crysmetrics 1, moyopy {version('moyopy')}"
    tolerance = TOLERANCES[name]
    return Extractor(name, made_by, LABELS, partial(_compute, tolerance), {"tolerance": tolerance})


def _compute(
    tolerance: float, crystals: Crystals, workers: int | None
) -> tuple[NDArray[np.float64], dict[int, str]]:
    # Half a millisecond a structure, in code that holds the GIL: not worth processes.
    found = find_space_groups(crystals, tolerance, workers)
    return found.numbers[:, None], found.failures
