"""Projection of positions and displacements onto a space group, with the orbits of sites given.

Every orbit has a first site on a Wyckoff position, and an operation that takes it to each of its
atoms. Everything is pulled back to the first site, averaged, put onto the position and carried to
all atoms again: the mean over the whole group, exact however far the atoms have gone astray.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysmetrics.space_groups.groups import GRID, SpaceGroup, WyckoffPosition

_CELLS = np.array(list(itertools.product((-1, 0, 1), repeat=3)))


@dataclass(frozen=True)
class Orbits:
    """The orbits of the atoms of a conventional cell, position after position.

    Attributes:
        space_group: whose cell it is.
        positions: Wyckoff position of each orbit; atoms are in the order of its sites.
    """

    space_group: SpaceGroup
    positions: Sequence[WyckoffPosition]

    def project_frac_coords(self, frac_coords: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project fractional coordinates (n, 3) onto the group; symmetric ones stay as they are."""
        found = []
        for position, rotations, own, keep in self._parts(frac_coords):
            shifts = self.space_group.setting.translations[position.operations]
            back = np.einsum("nij,nj->ni", np.linalg.inv(rotations), own - shifts)
            steps = back - back[0]
            first = back[0] + (steps - np.round(steps)).mean(axis=0)
            origin = position.shifts[0] / GRID
            steps = first - origin
            # Of the copies of the position in neighbouring cells, the nearest one is taken.
            cells = np.round(steps) + _CELLS
            away = (steps - cells) @ (np.eye(3) - keep).T
            cell = cells[np.argmin((away**2).sum(axis=1))]
            first = origin + cell + keep @ (steps - cell)
            moves = rotations @ first + shifts - own
            found.append(own + moves - np.round(moves))
        return np.concatenate(found)

    def project_displacements(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project displacements or scores (n, 3), in fractional coordinates, onto the group."""
        found = []
        for _, rotations, own, keep in self._parts(vectors):
            mean = np.einsum("nij,nj->ni", np.linalg.inv(rotations), own).mean(axis=0)
            found.append(rotations @ (keep @ mean))
        return np.concatenate(found)

    def _parts(
        self, values: NDArray[np.float64]
    ) -> list[
        tuple[WyckoffPosition, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
    ]:
        """Divide values (n, 3) by orbits, with rotations, and the projector onto each position."""
        parts, start = [], 0
        every = self.space_group.setting.rotations
        for position in self.positions:
            own = values[start : start + position.multiplicity]
            start += position.multiplicity
            linear = position.linear[0]
            # The site symmetry: rotations that keep the first site, whatever its coordinates are.
            shifts = np.rint(self.space_group.setting.translations * GRID).astype(np.int64)
            same = (every @ linear == linear).all(axis=(1, 2))
            at = every @ position.shifts[0] + shifts - position.shifts[0]
            keep = every[same & (at % GRID == 0).all(axis=1)].mean(axis=0)
            parts.append((position, every[position.operations].astype(np.float64), own, keep))
        return parts
