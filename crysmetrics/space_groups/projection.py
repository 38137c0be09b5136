"""Projection of positions and displacements onto a space group, with the orbits of sites given.

Every orbit has a first site on a Wyckoff position, and an operation that takes it to each of its
atoms. Everything is pulled back to the first site, averaged, put onto the position and carried to
all atoms again: the mean over the whole group, exact however far the atoms have gone astray.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.space_groups.groups import GRID, SpaceGroup, WyckoffPosition

NEAR_CELLS = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
"""(27, 3) whole numbers: a cell and those around it."""


@dataclass(frozen=True, eq=False)
class Orbits:
    """The orbits of the atoms of a cell, position after position, each from its first site on.

    All arrays are in fractional coordinates of the cell that `basis` gives. Operations act on
    columns.

    Attributes:
        space_group: whose positions these are.
        positions: Wyckoff position of each orbit.
        basis: (3, 3) vectors of the cell (rows) in terms of those of the conventional one, which
            is the default; of a primitive cell, say, where an orbit has fewer atoms than the
            position has sites.
    """

    space_group: SpaceGroup
    positions: Sequence[WyckoffPosition]
    basis: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(k,) number of atoms of each orbit."""
        return np.array([len(kept) for kept in self._kept], dtype=np.int64)

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """(n,) the atom on the first site of each atom's orbit."""
        return np.repeat(np.cumsum(self.counts) - self.counts, self.counts)

    @cached_property
    def rotations(self) -> NDArray[np.float64]:
        """(n, 3, 3) whole numbers: rotations that take the first site to each atom."""
        every = self.space_group.rotations
        chosen = [
            every[p.operations[kept]] for p, kept in zip(self.positions, self._kept, strict=True)
        ]
        return np.rint(self._turned(np.concatenate(chosen)))

    @cached_property
    def translations(self) -> NDArray[np.float64]:
        """(n, 3) translations of the same operations."""
        every = self.space_group.translations
        chosen = [
            every[p.operations[kept]] for p, kept in zip(self.positions, self._kept, strict=True)
        ]
        return np.concatenate(chosen) @ self._columns.T

    @cached_property
    def origins(self) -> NDArray[np.float64]:
        """(n, 3) a point on the position of the first site of each atom's orbit."""
        points = np.array([p.shifts[0] / GRID for p in self.positions]) @ self._columns.T
        return np.repeat(points, self.counts, axis=0)

    @cached_property
    def free(self) -> NDArray[np.float64]:
        """(n, 3, 3) how the first site of each atom's orbit moves with x, y and z of the tables."""
        linear = np.array([p.linear[0] for p in self.positions])
        return np.repeat(self._columns @ linear, self.counts, axis=0)

    @cached_property
    def projectors(self) -> NDArray[np.float64]:
        """(n, 3, 3) the mean over the site symmetry of the first site of each atom's orbit."""
        every = self.space_group.rotations
        moves = np.rint(self.space_group.translations * GRID).astype(np.int64)
        means = []
        for position in self.positions:
            # The site symmetry: rotations that keep the first site, whatever its coordinates are.
            same = (every @ position.linear[0] == position.linear[0]).all(axis=(1, 2))
            at = every @ position.shifts[0] + moves - position.shifts[0]
            means.append(every[same & (at % GRID == 0).all(axis=1)].mean(axis=0))
        return np.repeat(self._turned(np.array(means)), self.counts, axis=0)

    @cached_property
    def point_group(self) -> NDArray[np.float64]:
        """(g, 3, 3) rotations of the crystal class, each once."""
        turned = np.rint(self._turned(self.space_group.rotations))
        return np.unique(turned.reshape(-1, 9), axis=0).reshape(-1, 3, 3)

    def place(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Place all atoms.

        Args:
            parameters: (k, 3) values of x, y and z of each orbit; those that its position does not
                have are ignored.

        Returns:
            (n, 3) fractional coordinates in [0, 1).
        """
        own = np.repeat(parameters, self.counts, axis=0)
        sites = self.origins + np.einsum("nij,nj->ni", self.free, own)
        frac = np.einsum("nij,nj->ni", self.rotations, sites) + self.translations
        return frac - np.floor(frac)

    def project_frac_coords(self, frac_coords: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project fractional coordinates (n, 3) onto the group; symmetric ones stay as they are."""
        back = self._back(frac_coords - self.translations)
        steps = back - back[self.first]
        first = back[self.first] + self._means(steps - np.round(steps))
        # Of the copies of the position in neighbouring cells, the nearest one is taken.
        steps = first - self.origins
        cells = np.round(steps)[:, None] + NEAR_CELLS
        away = np.einsum("nij,ncj->nci", np.eye(3) - self.projectors, steps[:, None] - cells)
        cell = cells[np.arange(len(cells)), np.argmin((away**2).sum(axis=-1), axis=1)]
        kept = np.einsum("nij,nj->ni", self.projectors, steps - cell)
        sites = self.origins + cell + kept
        moves = np.einsum("nij,nj->ni", self.rotations, sites) + self.translations - frac_coords
        return frac_coords + moves - np.round(moves)

    def project_displacements(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project displacements or scores (n, 3), in fractional coordinates, onto the group."""
        kept = np.einsum("nij,nj->ni", self.projectors, self._means(self._back(vectors)))
        return np.einsum("nij,nj->ni", self.rotations, kept)

    @cached_property
    def _columns(self) -> NDArray[np.float64]:
        """(3, 3) map of columns of conventional coordinates to those of the cell."""
        return np.asarray(np.linalg.inv(self.basis).T, dtype=np.float64)

    @cached_property
    def _kept(self) -> list[NDArray[np.int64]]:
        """Sites of each position of which the cell has an atom: one of those a lattice apart."""
        kept = []
        for position in self.positions:
            steps = (position.shifts[:, None] - position.shifts) @ self._columns.T / GRID
            same = (np.abs(steps - np.round(steps)) < 1e-6).all(axis=-1)
            same &= (position.linear[:, None] == position.linear).all(axis=(2, 3))
            kept.append(np.flatnonzero(same.argmax(axis=1) == np.arange(len(same))))
        return kept

    @cached_property
    def _inverses(self) -> NDArray[np.float64]:
        return np.rint(np.linalg.inv(self.rotations))

    def _turned(self, rotations: NDArray[Any]) -> NDArray[np.float64]:
        """Write matrices (..., 3, 3) of conventional coordinates in those of the cell."""
        turned: NDArray[np.float64] = self._columns @ rotations @ np.linalg.inv(self._columns)
        return turned

    def _back(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("nij,nj->ni", self._inverses, vectors)

    def _means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average values (n, 3) over each orbit, and give every atom its orbit's mean."""
        sums = np.zeros_like(values)
        np.add.at(sums, self.first, values)
        return sums[self.first] / np.repeat(self.counts, self.counts)[:, None]
