"""How far above the convex hull crystals lie of which no database says so.

The rows of CIF folders come without energies, and many of them are hypothetical: rock-salt GaP,
fluorite Ag2O. Their formation energies are predicted by the shipped ALIGNN (which learned from
`train` rows only) and compared with the hull that is spanned by rows with DFT energies, of which
E_f - e_above_hull is a point of the Materials Project's own hull, and by the other predictions.
Phases that are missing make the hull too high, so what comes out is a lower bound, too low by the
network's error at worst: a large value tells, a small one does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.entries import Entries
from crysmetrics.io import Crystals
from crysmetrics.progress import task


def estimated_above_hull(
    entries: Entries, formation_energies: Mapping[str, float]
) -> NDArray[np.float64]:
    """(E,) eV/atom; NaN for entries whose distance from the hull is known.

    Args:
        entries: a library.
        formation_energies: those of entries by id in eV/atom, by DFT, where known.
    """
    hull = entries.e_above_hull.astype(np.float64)
    measured = np.array([formation_energies.get(name, np.nan) for name in entries.ids])
    points = measured - hull
    unknown = np.flatnonzero(np.isnan(points))
    points[unknown] = predicted_energies(entries, unknown)
    phases = _Phases(entries, points)
    estimates = np.full(len(entries), np.nan)
    with task("distances from the hull", len(unknown)) as advance:
        for i in unknown.tolist():
            advance(1)
            if np.isnan(hull[i]):
                estimates[i] = points[i] - phases.hull(i)
    return estimates


def predicted_energies(entries: Entries, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """Formation energies of some entries in eV/atom, by ALIGNN."""
    from crysmetrics.features.extractor import Run
    from crysmetrics.features.sample import Sample
    from crysmetrics.metrics.alignn import energies

    if not len(chosen):
        return np.zeros(0)
    rows = chosen.tolist()
    crystals = Crystals(
        np.concatenate([np.repeat(entries.slots(i), entries.counts(i)) for i in rows]),
        np.concatenate([entries.frac(i) for i in rows]),
        entries.lattices[chosen].astype(np.float64),
        entries.num_atoms[chosen],
        tuple(entries.ids[i] for i in rows),
    )
    return energies(Sample(crystals, "library", run=Run(cache=None)))


class _Phases:
    """Points in the space of compositions and energies, by the elements in them."""

    def __init__(self, entries: Entries, points: NDArray[np.float64]) -> None:
        self.points = points
        self.shares = []
        self.by_elements: dict[frozenset[int], list[int]] = {}
        for i in range(len(entries)):
            elements, counts = entries.slots(i).tolist(), entries.counts(i)
            total = sum(counts)
            self.shares.append({z: c / total for z, c in zip(elements, counts, strict=True)})
            if np.isfinite(points[i]):
                self.by_elements.setdefault(frozenset(elements), []).append(i)

    def hull(self, i: int) -> float:
        """Energy (eV/atom) of the best mixture of other phases with the composition of i."""
        from scipy.optimize import linprog

        elements = sorted(self.shares[i])
        subsets = (s for r in range(1, len(elements) + 1) for s in combinations(elements, r))
        others = [j for s in subsets for j in self.by_elements.get(frozenset(s), []) if j != i]
        # The elements themselves are at 0 by definition.
        columns = [[self.shares[j].get(z, 0.0) for z in elements] for j in others]
        columns += np.eye(len(elements)).tolist()
        costs = [*self.points[others].tolist(), *[0.0] * len(elements)]
        goal = [self.shares[i][z] for z in elements]
        found = linprog(costs, A_eq=np.array(columns).T, b_eq=goal, method="highs")
        return float(found.fun)
