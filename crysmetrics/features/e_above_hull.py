"""Energies above the hull as a feature: cached by structure, so that an interrupted run goes on."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from crysmetrics.above_hull import DEFAULT, stability
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals

E_ABOVE_HULL, HULL_ENERGY, COMPETING, HULL_ERROR = range(4)
"""Columns; behind them stand the formation energies by each potential."""
_TOGETHER = 32
"""Structures whose energies are kept at once."""


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of energies above the hull in eV/atom, (B, 4 + potentials).

    Raises:
        UserError: if a potential is not installed, or there is no such table of known phases.
    """
    settings = run.stability or DEFAULT

    def compute(
        crystals: Crystals, workers: int | None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        found = stability(crystals, settings, device=run.device, workers=workers)
        columns = [found.e_above_hull, found.hull_energy, found.competing, found.hull_error]
        values = np.column_stack([*columns, *found.formation.values()]).astype(np.float64)
        values[list(found.failures)] = np.nan
        return values, dict(found.failures)

    labels = ("e_above_hull", "hull_energy", "competing_phases", "hull_error")
    energies = (f"formation_energy_{potential}" for potential in settings.potentials)
    made_by = f"crysmetrics 1, pymatgen {version('pymatgen')}"
    return Extractor(
        name, made_by, (*labels, *energies), compute, settings.identity(), batch=_TOGETHER
    )
