"""Estimate e_above_hull of entries for which no database has it.

The rows of CIF folders come without energies, and many of them are hypothetical: rock-salt GaP,
fluorite Ag2O. Their formation energies are predicted by the shipped ALIGNN (which learned from
`train` rows only) and compared with the hull that is spanned by rows with DFT energies, of which
E_f - e_above_hull is a point of the Materials Project's own hull, and by the other predictions.
Phases that are missing make the hull too high, so what comes out is a lower bound, too low by the
network's error at worst: a large value tells, a small one does not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.entries import Entries
from crysmetrics.hull import ConvexHull
from crysmetrics.io import Crystals
from crysmetrics.progress import task


def estimated_above_hull(
    entries: Entries,
    formation_energies: Mapping[str, float],
    chosen: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Estimate e_above_hull (E,) in eV/atom; NaN for entries whose distance is known.

    Args:
        entries: a library.
        formation_energies: those of entries by id in eV/atom, by DFT, where known.
        chosen: entries that are estimated; all by default.
    """
    hull = entries.e_above_hull.astype(np.float64)
    measured = np.array([formation_energies.get(name, np.nan) for name in entries.ids])
    points = measured - hull
    unknown = np.flatnonzero(np.isnan(points))
    if chosen is not None:
        unknown = np.intersect1d(unknown, chosen)
    points[unknown] = predicted_energies(entries, unknown)
    compositions = [
        dict(zip(entries.species(i).tolist(), entries.counts(i), strict=True))
        for i in range(len(entries))
    ]
    phases = ConvexHull(compositions, points)
    estimates = np.full(len(entries), np.nan)
    with task("distances from the hull", len(unknown)) as advance:
        for i in unknown.tolist():
            advance(1)
            if np.isnan(hull[i]):
                estimates[i] = phases.e_above_hull_of(i, with_itself=False)
    return estimates


def predicted_energies(entries: Entries, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Predict formation energies of some entries in eV/atom, by ALIGNN."""
    from crysmetrics.features.extractor import Run
    from crysmetrics.features.sample import Sample
    from crysmetrics.metrics.alignn import energies

    if not len(chosen):
        return np.zeros(0)
    rows = chosen.tolist()
    crystals = Crystals(
        np.concatenate([np.repeat(entries.species(i), entries.counts(i)) for i in rows]),
        np.concatenate([entries.frac(i) for i in rows]),
        entries.lattices[chosen].astype(np.float64),
        entries.num_atoms[chosen],
        tuple(entries.ids[i] for i in rows),
    )
    return energies(Sample(crystals, "library", run=Run(cache=None)))
