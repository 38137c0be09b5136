"""All entries of one anonymous formula and cell size, and their votes for prototypes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from crysgen.retrieval.library.anonymous import Counts, composed, renamings
from crysgen.retrieval.library.entries import Entries
from crysgen.retrieval.library.prototypes import sort_into_prototypes
from crysgen.retrieval.scoring.similarity import Similarity, entry_features

THEORETICAL = ("OQMD", "Alexandria", "JARVIS")
"""Databases that hold many hypothetical compounds."""
HYPOTHETICAL_TRUST, TRUST_SCALE = 0.2, 0.05
"""Of `Group.trust`: a factor for entries of such databases, and eV/atom."""


class Group:
    """The g entries with the same anonymous counts.

    A *placement* is an entry together with one of P ways to put a compound's slots onto the
    entry's: number `entry * P + renaming`. A *column* is a prototype with a renaming likewise:
    two compounds that hit the same column are isostructural, with slots that correspond.

    Attributes:
        counts: atoms of each slot.
        members: (g,) indices into the library's entries.
        elements: (g, k) atomic number of each slot.
        renamings: (P, k).
        similarity: the networks.
    """

    def __init__(self, entries: Entries, counts: Counts, similarity: Similarity) -> None:
        self.entries, self.counts, self.similarity = entries, counts, similarity
        none = np.zeros(0, dtype=np.int64)
        self.members = entries.by_counts.get(counts, none)
        self.elements = np.array([entries.slots(int(i)) for i in self.members]).reshape(
            -1, len(counts)
        )
        self.renamings = renamings(counts)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def hits(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Entry (as a position here), leader (numbered from 0) and renaming of each hit."""
        return self._sorted[1:]

    @cached_property
    def _sorted(
        self,
    ) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Leaders as positions here, and the hits."""
        entries, members = self.entries, self.members
        start = np.searchsorted(entries.hit_entry, members.min())
        stop = np.searchsorted(entries.hit_entry, members.max(), side="right")
        part = slice(int(start), int(stop))
        mine = np.isin(entries.hit_entry[part], members)
        entry = np.searchsorted(members, entries.hit_entry[part][mine])
        renaming = entries.hit_renaming[part][mine].astype(np.int64)
        known, leader = np.unique(entries.hit_leader[part][mine], return_inverse=True)
        leaders = np.searchsorted(members, entries.leaders[known]).tolist()
        if (members < entries.sorted_entries).all():
            return leaders, entry, leader, renaming
        # A user's entries are sorted when they are first needed.
        shapes = entries.shapes(members)
        new = int((members < entries.sorted_entries).sum())
        leaders, found = sort_into_prototypes(shapes, self.counts, leaders, new)
        return (
            leaders,
            np.concatenate([entry, np.array(found.entry, dtype=np.int64)]),
            np.concatenate([leader, np.array(found.leader, dtype=np.int64)]),
            np.concatenate([renaming, np.array(found.renaming, dtype=np.int64)]),
        )

    def leader_id(self, leader: int) -> str:
        """The id of a prototype: that of the entry that stands for it."""
        return self.entries.ids[int(self.members[self._sorted[0][leader]])]

    @cached_property
    def votes(self) -> sparse.csr_matrix:
        """(g * P, columns): which columns a compound would hit in each placement."""
        entry, leader, renaming = self.hits
        cases = len(self.renamings)
        table = composed(self.counts)
        rows = (entry[:, None] * cases + np.arange(cases)).reshape(-1)
        # A compound laid onto an entry which then is laid onto a leader.
        columns = (leader[:, None] * cases + table[:, renaming].T).reshape(-1)
        shape = (len(self) * cases, (int(leader.max()) + 1 if len(leader) else 0) * cases)
        values = np.ones(len(rows), dtype=np.float64)
        return sparse.csr_matrix((values, (rows, columns)), shape=shape)

    @cached_property
    def voters(self) -> sparse.csr_matrix:
        """The transpose of `votes`."""
        return self.votes.T.tocsr()

    @cached_property
    def _points(self) -> NDArray[np.float32]:
        return self.similarity.embed(self.elements, self.counts)

    @cached_property
    def _bias(self) -> NDArray[np.float32]:
        entries, members = self.entries, self.members
        unsure = np.array([name in THEORETICAL for name, _ in entries.sources])
        theoretical = unsure[entries.source[members]]
        hull, groups = entries.e_above_hull[members], entries.space_groups[members]
        bound = entries.hull_estimate[members]
        return self.similarity.entry_bias(entry_features(hull, bound, theoretical, groups))

    @cached_property
    def above_hull(self) -> NDArray[np.float64]:
        """(g,) eV/atom above the hull: known, or the lower bound, or 0."""
        known = self.entries.e_above_hull[self.members].astype(np.float64)
        bound = self.entries.hull_estimate[self.members].astype(np.float64)
        return np.maximum(np.nan_to_num(np.where(np.isnan(known), bound, known)), 0)

    @cached_property
    def trust(self) -> NDArray[np.float64]:
        """(g,) between 0 and 1: how sure it is that this symmetry is the stable one."""
        entries, members = self.entries, self.members
        unsure = np.array([name in THEORETICAL for name, _ in entries.sources])
        factor = np.where(unsure[entries.source[members]], HYPOTHETICAL_TRUST, 1.0)
        trust: NDArray[np.float64] = factor * np.exp(-self.above_hull / TRUST_SCALE)
        return trust

    @cached_property
    def volumes(self) -> NDArray[np.float64]:
        """(g,) cell volumes in Å³."""
        lattices = self.entries.lattices[self.members].astype(np.float64)
        return np.abs(np.linalg.det(lattices))

    @cached_property
    def volume_factors(self) -> NDArray[np.float64]:
        """(g,) each entry's volume over what the network says for its composition."""
        return self.volumes / self.similarity.cell_volumes(self.elements, self.counts)

    def distances(self, elements: NDArray[np.int64]) -> NDArray[np.float32]:
        """(g, P) squared distances of a compound's slots (k,) to each entry's, by renaming."""
        own = self.similarity.embed(elements[None], self.counts)[0]
        points = self._points
        square = (own**2).sum(-1)[None, :, None] + (points**2).sum(-1)[:, None, :]
        square = square - 2 * np.einsum("sd,gtd->gst", own, points)
        slots = np.arange(len(elements))
        per_case = [square[:, slots, case].sum(axis=1) for case in self.renamings]
        return np.maximum(np.stack(per_case, axis=1), 0)

    def logits(self, elements: NDArray[np.int64]) -> NDArray[np.float64]:
        """(g, P) how much each placement of a compound counts, as logarithms."""
        logits = self._bias[:, None] - self.distances(elements)
        return logits.astype(np.float64)

    def same_compound(self, elements: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(g,) which entries are of the very composition."""
        return (self.elements == elements).all(axis=1)
