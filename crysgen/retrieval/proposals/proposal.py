"""What the library proposes for a composition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.entries import Entries
from crysmetrics.io import Crystals


@dataclass(frozen=True)
class Proposal:
    """A known structure with the asked elements in it.

    Attributes:
        atomic_numbers: (n,).
        frac_coords: (n, 3).
        lattice: (3, 3) rows in Å.
        template_id: the entry whose positions and cell shape these are.
        source: the entry's database.
        licence: and its licence.
        prototype_id: id of the entry that stands for the prototype; equal for the same prototype.
        space_group: of the template; a decorated one's may be lower.
        score: how likely the structure is the one looked for, as far as the library alone can
            tell; proposals are ordered by it.
        parts: numbers that the score came from, and others that help to rank.
        method: `retrieval`, or `decoration` where one species of the template was split.
    """

    atomic_numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    lattice: NDArray[np.float64]
    template_id: str
    source: str
    licence: str
    prototype_id: str
    space_group: int
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)
    method: str = "retrieval"

    @property
    def num_atoms(self) -> int:
        """Atoms in the cell."""
        return len(self.atomic_numbers)

    @property
    def volume(self) -> float:
        """Of the cell, in Å³."""
        return float(abs(np.linalg.det(self.lattice)))

    def scaled_to(self, volume: float) -> Proposal:
        """The same crystal with another cell volume (Å³)."""
        return replace(self, lattice=self.lattice * (volume / self.volume) ** (1 / 3))


def to_crystals(proposals: Sequence[Proposal], prefix: str = "") -> Crystals:
    """Proposals as Crystals with ids `0`, `1`, ... behind `prefix`."""
    if not proposals:
        return Crystals.empty()
    return Crystals(
        np.concatenate([p.atomic_numbers for p in proposals]),
        np.concatenate([p.frac_coords for p in proposals]),
        np.array([p.lattice for p in proposals]),
        np.array([p.num_atoms for p in proposals]),
        tuple(f"{prefix}{i}" for i in range(len(proposals))),
        {
            "method": np.array([p.method for p in proposals]),
            "prototype_id": np.array([p.prototype_id for p in proposals]),
            "score": np.array([p.score for p in proposals]),
        },
    )


def supercell(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], numbers: NDArray[Any], m: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """The m-fold cell that is nearest to a cube among those with parallel axes."""
    best = (1, 1, m)
    least = np.inf
    lengths = np.linalg.norm(lattice, axis=1)
    for a in range(1, m + 1):
        for b in range(1, m // a + 1):
            if m % (a * b) == 0:
                sides = lengths * (a, b, m // (a * b))
                if sides.max() / sides.min() < least:
                    best, least = (a, b, m // (a * b)), sides.max() / sides.min()
    return repeated(lattice, frac_coords, numbers, np.diag(best))


def repeated(
    lattice: NDArray[np.float64],
    frac_coords: NDArray[np.float64],
    numbers: NDArray[np.int64],
    matrix: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Repeat a crystal in the cell whose vectors are whole combinations of its own.

    Args:
        lattice: (3, 3) rows in Å.
        frac_coords: (n, 3).
        numbers: (n,) atomic numbers.
        matrix: (3, 3) of determinant M.

    Returns:
        The same of M n atoms, all copies of an atom in a row.
    """
    from ase import Atoms
    from ase.build import make_supercell

    atoms = Atoms(numbers=numbers, cell=lattice, scaled_positions=frac_coords, pbc=True)
    whole = make_supercell(atoms, matrix, order="atom-major")
    return matrix @ lattice, whole.get_scaled_positions(), whole.numbers.astype(np.int64)


def source_of(entries: Entries, i: int) -> dict[str, str]:
    """Where an entry came from, as attributes of a proposal."""
    source, licence = entries.source_of(i)
    return {"template_id": entries.ids[i], "source": source, "licence": licence}
