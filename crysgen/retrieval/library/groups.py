"""Entries of one anonymous formula and cell size, and the prototypes they match."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from crysgen.retrieval.library.anonymous import Counts, composed_permutations, species_permutations
from crysgen.retrieval.library.entries import Entries
from crysgen.retrieval.library.prototypes import sort_into_prototypes
from crysgen.retrieval.scoring.similarity import Similarity, entry_features

THEORETICAL = ("OQMD", "Alexandria", "JARVIS")
"""Databases that hold many hypothetical compounds."""
HYPOTHETICAL_TRUST = 0.2
"""Trust in the symmetry of entries of such databases, relative to others."""
TRUST_SCALE = 0.05
"""Distance above the hull in eV/atom over which the trust in a symmetry falls e-fold."""


class AnonymousFormulaGroup:
    """The g entries with the same anonymous counts, each matched with prototypes.

    A *site mapping* is an entry with one of the P permutations that put a compound's species onto
    the entry's: number `entry * P + permutation`. A *column* is a prototype with a permutation
    likewise: two compounds with the same column are isostructural, and their species correspond.

    Args:
        entries: of a library.
        counts: atoms of each species.
        similarity: networks of distances and volumes.

    Attributes:
        members: (g,) indices into the entries.
        elements: (g, k) atomic number of each species.
        permutations: (P, k) of the species.
    """

    def __init__(self, entries: Entries, counts: Counts, similarity: Similarity) -> None:
        self.entries, self.counts, self.similarity = entries, counts, similarity
        self.members = entries.by_counts.get(counts, np.zeros(0, dtype=np.int64))
        elements = [entries.species(int(i)) for i in self.members]
        self.elements = np.array(elements).reshape(-1, len(counts))
        self.permutations = species_permutations(counts)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def matches(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(M,) member, prototype and permutation of each match; prototypes count from 0."""
        return self._sorted[1:]

    @cached_property
    def _sorted(
        self,
    ) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Representatives of the prototypes as positions in `members`, and the matches."""
        entries, members = self.entries, self.members
        start = np.searchsorted(entries.match_entry, members.min())
        stop = np.searchsorted(entries.match_entry, members.max(), side="right")
        part = slice(int(start), int(stop))
        mine = np.isin(entries.match_entry[part], members)
        member = np.searchsorted(members, entries.match_entry[part][mine])
        permutation = entries.match_permutation[part][mine].astype(np.int64)
        stored = entries.match_representative[part][mine]
        known, prototype = np.unique(stored, return_inverse=True)
        representatives = np.searchsorted(members, entries.representatives[known]).tolist()
        if (members < entries.sorted_entries).all():
            return representatives, member, prototype, permutation
        # A user's entries are sorted when they are first needed.
        new = int((members < entries.sorted_entries).sum())
        representatives, found = sort_into_prototypes(
            entries.niggli_cells(members), self.counts, representatives, new
        )
        return (
            representatives,
            np.concatenate([member, np.array(found.entry, dtype=np.int64)]),
            np.concatenate([prototype, np.array(found.representative, dtype=np.int64)]),
            np.concatenate([permutation, np.array(found.permutation, dtype=np.int64)]),
        )

    def representative_id(self, prototype: int) -> str:
        """Return the id of the entry that represents a prototype."""
        return self.entries.ids[int(self.members[self._sorted[0][prototype]])]

    @cached_property
    def columns_of_mappings(self) -> sparse.csr_matrix:
        """(g * P, columns) 1 where a compound on a site mapping has a column."""
        member, prototype, permutation = self.matches
        number = len(self.permutations)
        table = composed_permutations(self.counts)
        rows = (member[:, None] * number + np.arange(number)).reshape(-1)
        # A compound laid onto an entry which then is laid onto a representative.
        columns = (prototype[:, None] * number + table[:, permutation].T).reshape(-1)
        prototypes = int(prototype.max()) + 1 if len(prototype) else 0
        shape = (len(self) * number, prototypes * number)
        values = np.ones(len(rows), dtype=np.float64)
        return sparse.csr_matrix((values, (rows, columns)), shape=shape)

    @cached_property
    def mappings_of_columns(self) -> sparse.csr_matrix:
        """(columns, g * P) transpose of `columns_of_mappings`."""
        return self.columns_of_mappings.T.tocsr()

    @cached_property
    def _points(self) -> NDArray[np.float32]:
        return self.similarity.embed(self.elements, self.counts)

    @cached_property
    def theoretical(self) -> NDArray[np.bool_]:
        """(g,) whether the database of an entry holds many hypothetical compounds."""
        theoretical = np.array([name in THEORETICAL for name, _ in self.entries.sources])
        return theoretical[self.entries.source[self.members]]

    @cached_property
    def _bias(self) -> NDArray[np.float32]:
        hull = self.entries.e_above_hull[self.members]
        bound = self.entries.hull_estimate[self.members]
        groups = self.entries.space_groups[self.members]
        return self.similarity.entry_bias(entry_features(hull, bound, self.theoretical, groups))

    @cached_property
    def above_hull(self) -> NDArray[np.float64]:
        """(g,) eV/atom above the hull: known, or estimated, or 0."""
        known = self.entries.e_above_hull[self.members].astype(np.float64)
        bound = self.entries.hull_estimate[self.members].astype(np.float64)
        return np.maximum(np.nan_to_num(np.where(np.isnan(known), bound, known)), 0)

    @cached_property
    def trust(self) -> NDArray[np.float64]:
        """(g,) trust that an entry's symmetry is that of the stable structure, 0 to 1."""
        factor = np.where(self.theoretical, HYPOTHETICAL_TRUST, 1.0)
        trust: NDArray[np.float64] = factor * np.exp(-self.above_hull / TRUST_SCALE)
        return trust

    @cached_property
    def volumes(self) -> NDArray[np.float64]:
        """(g,) cell volumes in Å³."""
        lattices = self.entries.lattices[self.members].astype(np.float64)
        return np.abs(np.linalg.det(lattices))

    @cached_property
    def volume_factors(self) -> NDArray[np.float64]:
        """(g,) each entry's volume over the volume predicted from its composition."""
        return self.volumes / self.similarity.cell_volumes(self.elements, self.counts)

    def distances(self, elements: NDArray[np.int64]) -> NDArray[np.float32]:
        """Compute squared distances (g, P) of a compound's species (k,) to those of each entry."""
        own = self.similarity.embed(elements[None], self.counts)[0]
        points = self._points
        square = (own**2).sum(-1)[None, :, None] + (points**2).sum(-1)[:, None, :]
        square = square - 2 * np.einsum("sd,gtd->gst", own, points)
        species = np.arange(len(elements))
        each = [square[:, species, images].sum(axis=1) for images in self.permutations]
        return np.maximum(np.stack(each, axis=1), 0)

    def logits(self, elements: NDArray[np.int64]) -> NDArray[np.float64]:
        """Compute log-weights (g, P) of site mappings for a compound (k,)."""
        logits = self._bias[:, None] - self.distances(elements)
        return logits.astype(np.float64)

    def same_compound(self, elements: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the entries (g,) that have these elements (k,)."""
        return (self.elements == elements).all(axis=1)
