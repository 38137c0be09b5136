"""Draw how the atoms of a cell lie on the Wyckoff positions of a space group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from crysgen.compositions.formulas import Formula
from crysgen.models.targets import Target
from crysgen.wyckoff.fillings import Filling, Fillings, contents_of, why_impossible
from crysgen.wyckoff.frequencies import orbit_score
from crysgen.wyckoff.known_fillings import count_known, name_of
from crysgen.wyckoff.reductions import draw_basis
from crysmetrics.errors import UserError
from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.projection import Orbits

MOST_SITE_ATOMS = 40
"""Atoms of a primitive cell whose non-equivalent sites are given."""
_TRIES = 200
"""Draws of positions for given sites, after which these are given up."""
_PRIOR = 2.0
"""Number of known crystals that the likelihoods of single orbits weigh as."""
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
    """List the likeliest fillings, and the probability of each among them.

    Those of known crystals with as many atoms count whole, all others by single orbits.
    """
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
    # Fillings that differ in which element has which positions have the same name.
    known = np.array([float(count_known(filling)) for filling in found])
    alike = Counter(map(name_of, found))
    known /= np.array([alike[name_of(filling)] for filling in found])
    weights = known + _PRIOR * shares / shares.sum()
    return found, weights / weights.sum()


def draw_sites(number: int, sites: Sequence[int], seed: int) -> DrawnOrbits:
    """Draw Wyckoff positions for non-equivalent sites; how many atoms they are follows from these.

    Args:
        number: of the space group.
        sites: atomic number of each site.
        seed: of the draw.

    Raises:
        UserError: if they fit no cell that is small enough.
    """
    group, rng = space_group(number), np.random.default_rng([seed, number])
    score = orbit_score(group, Formula.of_atoms(np.array(sites)))
    shares = {z: np.exp([score(z, p) for p in group.positions]) for z in set(sites)}
    fixed = np.array([not p.free for p in group.positions])
    sizes = np.array([p.multiplicity for p in group.positions]) // group.centring
    for _ in range(_TRIES):
        taken: list[int] = []
        for z in sites:
            weights = shares[z].copy()
            weights[[k for k in taken if fixed[k]]] = 0
            taken.append(int(rng.choice(len(weights), p=weights / weights.sum())))
        if sizes[taken].sum() <= MOST_SITE_ATOMS:
            positions = tuple(group.positions[k] for k in taken)
            return DrawnOrbits(
                Orbits(group, positions, draw_basis(group, rng)), np.array(sites, dtype=np.int64)
            )
    raise UserError(
        f"{len(sites)} non-equivalent sites in space group {number} ({group.symbol}) are hardly "
        f"ever as few as {MOST_SITE_ATOMS} atoms of a primitive cell; ask for fewer sites."
    )


def draw_target(target: Target) -> DrawnOrbits:
    """Draw the orbits of a structure that a model is asked to make.

    Raises:
        UserError: see `draw_orbits` and `draw_sites`.
    """
    number = target.space_group or 1
    if target.sites is not None:
        return draw_sites(number, target.sites, target.seed)
    return draw_orbits(number, target.atomic_numbers or (), target.seed)
