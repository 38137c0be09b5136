"""Convex hulls of formation energies: what a composition would decompose into, and by how much.

The hull at a composition is the cheapest mixture of phases that has it, which is a linear program
(Akbarzadeh, Ozolins and Wolverton, Adv. Mater. 19, 3233 (2007)): the same energies as those of
pymatgen's `PhaseDiagram`, for any number of elements and without a diagram of the whole system.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Amounts = Mapping[int, float]
"""Atomic number -> atoms of it, in any multiple."""
LEAST_SHARE = 1e-6
"""Share of the atoms that a phase has in a mixture to be named."""
_TURNS = 2000
_LEAST_GAIN = 1e-11
"""eV/atom by which a phase must lie below the mixture so far."""
_SAME = 1e-9
"""Difference of shares of elements within which compositions are one."""


class Mixture(NamedTuple):
    """The cheapest mixture of phases with some composition."""

    energy: float
    """In eV/atom."""
    phases: dict[int, float]
    """Index of a phase -> its share of the atoms."""
    elements: dict[int, float]
    """Atomic number -> share of the atoms that stay pure elements, where no phase stands for
    them."""


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

    def mixture(
        self, composition: Amounts, without: int | None = None, *, with_itself: bool = True
    ) -> Mixture:
        """Find the cheapest mixture of phases with a composition.

        Args:
            composition: atoms of each element.
            without: index of a phase that does not count.
            with_itself: whether phases of just this composition count.
        """
        elements = sorted(composition)
        goal = _shares(composition, elements)
        used = [i for i in self.phases_within(elements) if i != without]
        columns = np.array([_shares(self.compositions[i], elements) for i in used])
        columns = columns.reshape(len(used), len(elements))
        if not with_itself:
            others = np.abs(columns - goal).max(axis=1, initial=0.0) > _SAME
            used = [i for i, other in zip(used, others, strict=True) if other]
            columns = columns[others]
        columns = np.concatenate([columns, np.eye(len(elements))])
        costs = np.concatenate([self.energies[used], np.zeros(len(elements))])
        basis, weights = _cheapest(columns.T, goal, costs)
        named = [(k, w) for k, w in zip(basis, weights, strict=True) if w > LEAST_SHARE]
        return Mixture(
            float(costs[basis] @ weights),
            {used[k]: w for k, w in named if k < len(used)},
            {elements[k - len(used)]: w for k, w in named if k >= len(used)},
        )

    def hull_energy(self, composition: Amounts, without: int | None = None) -> float:
        """Compute the energy (eV/atom) of the best mixture of phases with a composition.

        Args:
            composition: atoms of each element.
            without: index of a phase that does not count.
        """
        return self.mixture(composition, without).energy

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
        if not math.isfinite(self.energies[phase]):
            return math.nan
        hull = self.hull_energy(self.compositions[phase], without)
        return float(self.energies[phase]) - hull

    def phases_within(self, elements: Sequence[int]) -> Iterator[int]:
        """List the phases with energies that are made of some elements alone."""
        for size in range(1, len(elements) + 1):
            for subset in combinations(sorted(elements), size):
                yield from self._by_elements.get(frozenset(subset), [])


def _shares(amounts: Amounts, elements: Sequence[int]) -> NDArray[np.float64]:
    """Compute the shares of the elements in the atoms of a composition."""
    found = np.array([float(amounts.get(z, 0)) for z in elements])
    return found / found.sum()


def _cheapest(
    columns: NDArray[np.float64], goal: NDArray[np.float64], costs: NDArray[np.float64]
) -> tuple[list[int], list[float]]:
    """Minimise `costs @ w` with `columns @ w == goal` and `w >= 0`, by the simplex method.

    Libraries' solvers take milliseconds to set up a program that has a handful of rows; this one
    begins with the pure elements, which are always a solution.

    Args:
        columns: (D, K + D), of which the last D are the elements, an identity.
        goal: (D,) positive.
        costs: (K + D,).

    Returns:
        D columns, and their weights.
    """
    size, count = columns.shape
    basis = list(range(count - size, count))
    weights = goal.copy()
    for turn in range(_TURNS):
        inverse = np.linalg.inv(columns[:, basis])
        weights = inverse @ goal
        gains = costs - (costs[basis] @ inverse) @ columns
        gains[basis] = 0.0
        better = np.flatnonzero(gains < -_LEAST_GAIN)
        if not len(better):
            break
        # The steepest is fastest, and the first (Bland's rule) never goes in circles.
        entering = int(better[0] if turn > _TURNS // 2 else np.argmin(gains))
        change = inverse @ columns[:, entering]
        positive = np.flatnonzero(change > _SAME)
        ratios = np.maximum(weights[positive], 0.0) / change[positive]
        tied = positive[ratios <= ratios.min() + 1e-15]
        basis[min(tied.tolist(), key=lambda row: basis[row])] = entering
    return basis, weights.tolist()
