"""Phase diagrams: the phases of a chemical system, and the hull that they are compared with.

A known phase is published with its energy above the hull, which tells where the hull runs at its
composition. Where the phases that make up the hull there are not in the table, this point is a
corner of the hull without a phase of its own, and the phase lies above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crysmetrics.hull import Amounts, ConvexHull
from crysmetrics.hull.table import ON_HULL, HullTable, formula, reduced
from crysmetrics.io.elements import SYMBOLS


class FoundPhase(NamedTuple):
    """A phase that the table lacks."""

    name: str
    composition: Amounts
    """Atoms of each element."""
    energy: float
    """Formation energy in eV/atom."""


@dataclass(frozen=True)
class DiagramPhase:
    """A phase in a diagram.

    Attributes:
        formula: reduced, or an element's symbol.
        name: id of a known phase, name of a found one, "" for an element at energy 0.
        shares: of the diagram's elements among the atoms.
        energy: formation energy in eV/atom.
        above: energy above the hull in eV/atom.
        found: whether the table lacks it.
    """

    formula: str
    name: str
    shares: tuple[float, ...]
    energy: float
    above: float
    found: bool

    @property
    def on_hull(self) -> bool:
        """Tell whether the phase is on the hull, as far as energies are exact."""
        return self.above <= ON_HULL


@dataclass(frozen=True, eq=False)
class HullDiagram:
    """The phases of a chemical system and their hull.

    Attributes:
        elements: atomic numbers, n of them.
        phases: the lowest of each composition, the elements among them.
        corners: (C, n) shares of the elements at the corners of the hull.
        energies: (C,) of the corners, in eV/atom.
        edges: pairs of corners that lines of the hull connect.
    """

    elements: tuple[int, ...]
    phases: tuple[DiagramPhase, ...]
    corners: NDArray[np.float64]
    energies: NDArray[np.float64]
    edges: tuple[tuple[int, int], ...]

    def on_hull(self) -> list[DiagramPhase]:
        """List the compounds on the hull by formula; the elements are left out."""
        compounds = [p for p in self.phases if p.on_hull and max(p.shares) < 1]
        return sorted(compounds, key=lambda phase: phase.formula)

    def corners_without_phase(self) -> list[int]:
        """List the corners at whose composition no phase reaches the hull."""
        reached = np.array([phase.shares for phase in self.phases if phase.on_hull])
        far = np.abs(self.corners[:, None] - reached[None]).max(axis=2).min(axis=1) > 1e-6
        return [int(i) for i in np.flatnonzero(far)]


def hull_with(
    table: HullTable, elements: Sequence[int], found: Sequence[FoundPhase] = ()
) -> ConvexHull:
    """Make the convex hull of a chemical system, of known phases and others.

    Args:
        table: of the known phases, and of the hull's energies at their compositions.
        elements: atomic numbers.
        found: further phases.
    """
    rows = list(table.hull.phases_within(elements))
    return ConvexHull(
        [*(table.compositions[i] for i in rows), *(phase.composition for phase in found)],
        np.array([*table.hull.energies[rows], *(phase.energy for phase in found)]),
    )


def hull_diagram(
    table: HullTable, elements: Sequence[int], found: Sequence[FoundPhase] = ()
) -> HullDiagram:
    """Make the phase diagram of a chemical system.

    Args:
        table: known phases.
        elements: atomic numbers, two at least.
        found: further phases.
    """
    hull = hull_with(table, elements, found)
    within = set(elements)
    known = [
        FoundPhase(name, amounts, float(energy))
        for name, amounts, energy in zip(table.ids, table.compositions, table.energies, strict=True)
        if within.issuperset(amounts)
    ]
    pure = [FoundPhase("", {z: 1}, 0.0) for z in elements]
    everything = [*((p, False) for p in known), *((p, True) for p in found)]
    lowest: dict[tuple[tuple[int, int], ...], DiagramPhase] = {}
    for phase, is_found in (*everything, *((p, False) for p in pure)):
        key = reduced({int(z): int(n) for z, n in phase.composition.items()})
        if key not in lowest or phase.energy < lowest[key].energy:
            lowest[key] = _drawn(phase, elements, hull, is_found)
    phases = tuple(lowest.values())
    corners, energies, edges = _corners(table, elements, phases)
    return HullDiagram(tuple(elements), phases, corners, energies, edges)


def _drawn(
    phase: FoundPhase, elements: Sequence[int], hull: ConvexHull, found: bool
) -> DiagramPhase:
    amounts = {int(z): int(n) for z, n in phase.composition.items()}
    name = SYMBOLS[next(iter(amounts))] if len(amounts) == 1 else formula(amounts)
    above = max(0.0, hull.e_above_hull(amounts, phase.energy))
    return DiagramPhase(name, phase.name, _shares(amounts, elements), phase.energy, above, found)


def _shares(amounts: Amounts, elements: Sequence[int]) -> tuple[float, ...]:
    total = sum(amounts.values())
    return tuple(float(amounts.get(z, 0)) / total for z in elements)


def _corners(
    table: HullTable, elements: Sequence[int], phases: Sequence[DiagramPhase]
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[tuple[int, int], ...]]:
    """Find corners and edges: those of phases on the hull, and of points deep below these.

    Published distances are rounded, so that points at which phases suffice would be corners by
    fractions of a meV/atom.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition, Element

    symbols = [Element.from_Z(int(z)) for z in elements]

    def amounts(shares: Sequence[float]) -> dict[int, float]:
        return {z: share for z, share in zip(elements, shares, strict=True) if share > 0}

    reached = [(phase.shares, phase.energy) for phase in phases if phase.on_hull]
    hull = ConvexHull([amounts(shares) for shares, _ in reached], [e for _, e in reached])
    points = [
        (_shares(table.compositions[i], elements), float(table.hull.energies[i]))
        for i in table.hull.phases_within(elements)
    ]
    deep = [
        (shares, energy)
        for shares, energy in points
        if hull.e_above_hull(amounts(shares), energy) < -ON_HULL
    ]
    entries = [
        PDEntry(Composition(dict(zip(symbols, shares, strict=True))), energy)
        for shares, energy in (
            *((np.eye(len(elements))[i], 0.0) for i in range(len(elements))),
            *reached,
            *deep,
        )
    ]
    diagram = PhaseDiagram(entries, symbols)
    used = sorted({int(i) for facet in diagram.facets for i in facet})
    place = {i: k for k, i in enumerate(used)}
    found = [diagram.qhull_entries[i] for i in used]
    corners = [[e.composition.get_atomic_fraction(s) for s in symbols] for e in found]
    energies = [diagram.get_form_energy_per_atom(e) for e in found]
    edges = {
        (place[min(a, b)], place[max(a, b)])
        for facet in diagram.facets
        for a, b in combinations([int(i) for i in facet], 2)
    }
    return np.array(corners), np.array(energies), tuple(sorted(edges))
