"""Convex hulls of formation energies: what a composition would decompose into, and by how much.

Hulls are those of pymatgen's `PhaseDiagram` (Ong et al., Chem. Mater. 20, 1798 (2008)). The hull of
a chemical system is made of all phases within it when it is first asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from pymatgen.core import Composition

_SYSTEMS_KEPT = 512
"""Hulls that are kept in memory, those asked for last."""

Amounts = Mapping[int, float]
"""Atomic number -> atoms of it, in any multiple."""


class ConvexHull:
    """Phases with formation energies, and the hull of every chemical system among them.

    The elements themselves lie at 0 by definition, whether there are phases of them or not.

    Args:
        compositions: of E phases.
        energies: (E,) formation energies in eV/atom; phases without one (NaN) are left out.
    """

    def __init__(self, compositions: Sequence[Amounts], energies: ArrayLike) -> None:
        self.energies = np.asarray(energies, dtype=np.float64)
        if self.energies.shape != (len(compositions),):
            raise ValueError(
                f"{len(compositions)} compositions and energies of shape {self.energies.shape}"
            )
        self.compositions = [dict(amounts) for amounts in compositions]
        self._by_elements: dict[frozenset[int], list[int]] = {}
        for i, amounts in enumerate(self.compositions):
            if math.isfinite(self.energies[i]):
                self._by_elements.setdefault(frozenset(amounts), []).append(i)
        self._diagram = lru_cache(_SYSTEMS_KEPT)(self._make_diagram)

    def hull_energy(self, composition: Amounts, without: int | None = None) -> float:
        """Compute the energy (eV/atom) of the best mixture of phases with a composition.

        Args:
            composition: atoms of each element.
            without: index of a phase that does not count.
        """
        elements = frozenset(composition)
        diagram = self._diagram(elements, None)
        # Phases that are no corners of the hull change nothing.
        if without is not None and any(
            entry.attribute == without for entry in diagram.stable_entries
        ):
            diagram = self._diagram(elements, without)
        return float(diagram.get_hull_energy_per_atom(_composition(composition)))

    def e_above_hull(self, composition: Amounts, energy: float) -> float:
        """Compute how far (eV/atom) a formation energy lies above the hull; negative below it."""
        return energy - self.hull_energy(composition)

    def e_above_hull_of(self, phase: int, *, with_itself: bool = True) -> float:
        """Compute how far (eV/atom) one of the phases lies above the hull.

        Args:
            phase: its index.
            with_itself: whether it is part of the hull, so that the distance is never negative.

        Returns:
            NaN for a phase without energy.
        """
        without = None if with_itself else phase
        hull = self.hull_energy(self.compositions[phase], without)
        return float(self.energies[phase]) - hull

    def _phases_within(self, elements: frozenset[int]) -> Iterator[int]:
        for size in range(1, len(elements) + 1):
            for subset in combinations(sorted(elements), size):
                yield from self._by_elements.get(frozenset(subset), [])

    def _make_diagram(self, elements: frozenset[int], without: int | None) -> Any:
        """The phase diagram of some elements; phases have their index as attribute."""
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

        entries = [PDEntry(_composition({z: 1}), 0.0) for z in sorted(elements)]
        for i in self._phases_within(elements):
            if i != without:
                composition = _composition(self.compositions[i])
                energy = float(self.energies[i]) * composition.num_atoms
                entries.append(PDEntry(composition, energy, attribute=i))
        return PhaseDiagram(entries)


def _composition(amounts: Amounts) -> Composition:
    from pymatgen.core import Composition, Element

    return Composition({Element.from_Z(int(z)): float(n) for z, n in amounts.items()})
