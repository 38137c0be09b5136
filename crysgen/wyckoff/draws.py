"""Draw how the atoms of a cell lie on the Wyckoff positions of a space group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from crysgen.compositions.formulas import Formula
from crysgen.wyckoff.fillings import Filling, Fillings, contents_of, why_impossible
from crysgen.wyckoff.frequencies import orbit_score
from crysgen.wyckoff.reductions import draw_basis
from crysmetrics.errors import UserError
from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.projection import Orbits

MOST_FILLINGS = 200
"""Of the likeliest, from which one is drawn; the rest of them is hardly ever real."""


@dataclass(frozen=True, eq=False)
class DrawnOrbits:
    """Orbits of a crystal that is to be made.

    Attributes:
        orbits: in the cell that a model works in, a reduced primitive one.
        elements: (k,) atomic number of each orbit.
    """

    orbits: Orbits
    elements: NDArray[np.int64]

    @property
    def atomic_numbers(self) -> NDArray[np.int64]:
        """(n,) of the atoms of the cell, orbit after orbit."""
        return np.repeat(self.elements, self.orbits.counts)

    @property
    def conventional(self) -> Orbits:
        """The same orbits in the conventional cell."""
        return Orbits(self.orbits.space_group, self.orbits.positions)


def draw_orbits(number: int, atomic_numbers: Sequence[int], seed: int) -> DrawnOrbits:
    """Draw Wyckoff positions for the atoms of a primitive cell, and how that cell lies.

    Args:
        number: of the space group.
        atomic_numbers: of a primitive cell. Where these fit none, and fit a conventional cell, they
            are taken for that.
        seed: of the draw.

    Raises:
        UserError: if the atoms fit no cell, with the reason and the nearest that works.
    """
    fillings, shares = _likeliest(number, tuple(sorted(atomic_numbers)))
    rng = np.random.default_rng([seed, number])
    filling = fillings[int(rng.choice(len(fillings), p=shares))]
    group = space_group(number)
    positions = tuple(position for _, position in filling.orbits)
    elements = np.array([element for element, _ in filling.orbits], dtype=np.int64)
    return DrawnOrbits(Orbits(group, positions, draw_basis(group, rng)), elements)


@lru_cache(maxsize=1024)
def _likeliest(
    number: int, atomic_numbers: tuple[int, ...]
) -> tuple[list[Filling], NDArray[np.float64]]:
    """List the likeliest fillings, and the probability of each among them."""
    group = space_group(number)
    atoms = Formula.of_atoms(np.array(atomic_numbers))
    for contents in (contents_of(atoms, 1, group), atoms):
        ways = Fillings(group, contents)
        if ways.count:
            break
    else:
        formula = atoms.reduced
        raise UserError(why_impossible(formula, atoms.num_atoms // formula.num_atoms, group))
    found = list(islice(ways.likeliest(orbit_score(group, contents)), MOST_FILLINGS))
    scores = np.array([filling.score for filling in found])
    shares = np.exp(scores - scores.max())
    return found, shares / shares.sum()
