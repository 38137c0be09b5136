"""Space groups of crystals, as a feature: one number a structure, cached like all others."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.symmetry import TOLERANCE, find_space_groups

LABELS = ("space_group",)


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of space group numbers (B, 1), 1 to 230."""
    made_by = f"crysmetrics 1, moyopy {version('moyopy')}"
    return Extractor(name, made_by, LABELS, _compute, {"tolerance": TOLERANCE})


def _compute(crystals: Crystals, workers: int | None) -> tuple[NDArray[np.float64], dict[int, str]]:
    # Half a millisecond a structure, in code that holds the GIL: not worth processes.
    found = find_space_groups(crystals, workers=workers)
    return found.numbers[:, None], found.failures
