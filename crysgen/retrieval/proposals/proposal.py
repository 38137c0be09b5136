"""A proposed structure, and the features that its score comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysgen.proposers.base import PREDICTED, PREDICTED_TIER
from crysgen.retrieval.library.entries import Entries
from crysgen.retrieval.library.named_structures import ASE
from crysgen.retrieval.library.prototypes import PrimitiveCrystal
from crysmetrics.io import Crystals

ON_HULL = 0.001
"""Distance in eV/atom at or below which a structure lies on the hull."""


@dataclass(frozen=True)
class ProposalFeatures:
    """Numbers about a proposal that say how likely it is.

    Attributes:
        share: weight of the entries that support the template, as a share of that of all entries,
            without those that supported earlier proposals; of a decorated template its score.
        first_share: the same with all entries.
        nearest: distance of the composition from that of the template, as a negative logit.
        effective_support: number of supporting entries, were all of the same weight.
        num_supporting: number of supporting entries.
        stable_weight: share of the support that is of entries whose symmetry can be trusted.
        volume_factor: mean log-volume of supporting entries over what their compositions suggest.
        e_above_hull: of the template in eV/atom; NaN if unknown.
        known_above_hull: by how much (eV/atom) all supporting entries of the very formula are known
            to lie above the hull; 0 if any is not.
        user_entry: whether the template is a user's own crystal of the very formula.
        multiple: primitive cells of the template in the cell.
        is_merged: whether two species of the template became one element.
        is_decorated: whether two elements share the sites of one species of the template.
        parent_score: of the template that was decorated.
        element_similarity: of the two elements that share sites, 0 to 1.
        pattern: rank of the decoration among those of its parent.
        num_patterns: decorations of that parent that differ by symmetry.
        volume_disagreement: difference of two predictions of the log-volume.
        plausibility: score of the plausibility network.
    """

    share: float
    first_share: float
    nearest: float
    effective_support: float
    num_supporting: int
    stable_weight: float
    volume_factor: float
    e_above_hull: float
    known_above_hull: float
    user_entry: bool
    multiple: int
    is_merged: bool = False
    is_decorated: bool = False
    parent_score: float = 0.0
    element_similarity: float = 0.0
    pattern: int = 0
    num_patterns: int = 1
    volume_disagreement: float = 0.0
    plausibility: float = 0.0


@dataclass(frozen=True)
class Proposal:
    """A known structure with other elements in it.

    Attributes:
        atomic_numbers: (n,).
        frac_coords: (n, 3).
        lattice: (3, 3) rows in Å.
        template_id: the entry whose positions and cell shape these are.
        source: the entry's database.
        licence: and its licence.
        prototype_id: id of the entry that stands for the prototype; equal for the same prototype.
        space_group: of the template; a decorated one's may be lower.
        score: weight among all proposals of the composition, as far as the library alone can tell;
            those of a tier are ordered by it.
        features: numbers that the score comes from.
        method: `retrieval`; `decoration` where two elements share the sites of one species of the
            template, `merging` where two of its species became one element.
        known: which known structure of the very formula it is (`mp-1265, on the hull`); "" for a
            prediction.
        tier: proposals of a lower one come first, whatever their scores.
        probability: of being the right structure (`scoring.probability`).
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
    features: ProposalFeatures
    method: str = "retrieval"
    known: str = ""
    tier: int = PREDICTED_TIER
    probability: float = 0.0

    @property
    def num_atoms(self) -> int:
        """Number of atoms in the cell."""
        return len(self.atomic_numbers)

    @property
    def status(self) -> str:
        """Say whether it is known, and as what: `known (mp-1265, on the hull)` or `predicted`."""
        return f"known ({self.known})" if self.known else PREDICTED

    @property
    def volume(self) -> float:
        """Volume of the cell in Å³."""
        return float(abs(np.linalg.det(self.lattice)))

    def scaled_to(self, volume: float) -> Proposal:
        """Scale the cell to a volume (Å³)."""
        return replace(self, lattice=self.lattice * (volume / self.volume) ** (1 / 3))


def to_crystals(proposals: Sequence[Proposal], prefix: str = "") -> Crystals:
    """Pack proposals as Crystals with ids `0`, `1`, ... behind `prefix`."""
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
            "probability": np.array([p.probability for p in proposals]),
            "status": np.array([p.status for p in proposals]),
            "tier": np.array([p.tier for p in proposals], dtype=np.int64),
        },
    )


def as_crystals(cell: PrimitiveCrystal) -> Crystals:
    """Pack a primitive crystal as Crystals."""
    numbers = np.repeat(cell.elements, cell.counts)
    size = np.array([len(numbers)])
    return Crystals(numbers, cell.frac_coords, cell.lattice[None], size, ("0",))


def supercell(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], numbers: NDArray[Any], m: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    """Repeat a cell m-fold along its axes, so that its edges are as equal as can be."""
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


def source_of(entries: Entries, i: int) -> dict[str, Any]:
    """Name the origin of an entry, as attributes of a proposal."""
    source, licence = entries.source_of(i)
    return {"template_id": entries.ids[i], "source": source, "licence": licence}


def status_of(entries: Entries, i: int) -> str:
    """Say in a few words which known structure an entry is: `mp-1265, on the hull`."""
    hull, name = float(entries.e_above_hull[i]), entries.ids[i]
    if entries.source_of(i)[0] == ASE[0] or np.isnan(hull):
        return name
    if hull <= ON_HULL:
        return f"{name}, on the hull"
    return f"{name}, {hull:.3f} eV/atom above the hull"
