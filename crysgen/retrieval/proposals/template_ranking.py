"""How the entries of a library vote for the prototypes of a composition."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts
from crysgen.retrieval.proposals.proposal import Proposal, source_of, supercell

if TYPE_CHECKING:
    from crysgen.retrieval.library.library import Library

KNOWN_STABLE, KNOWN_UNSURE, KNOWN_ABOVE_HULL, KNOWN_LEAST = 4.0, -3.0, 200.0, -12.0
"""Added to the logit of an entry of the very formula that is asked for, if it lies on the convex
hull; the same if nobody knows; what each eV/atom above the hull, known or estimated, takes from it,
as then there is a better structure; and the least that this can come to."""
KNOWN_OWN, OWN_SOURCE = 10.0, "user"
"""The same for crystals that users added themselves."""
ON_HULL = 0.001
"""eV/atom above the hull at which most of that bonus is gone: what lies there is not the best."""
TEMPLATE_VOLUME = 0.9
"""How far a proposal's packing is its voters' (1), or what is usual for its elements (0)."""
OTHER_SYMMETRY = 0.1
"""Share of its vote that an entry keeps when its prototype was proposed with another symmetry."""
_LEAST = 1e-9


class Ballot:
    """The votes of one group's entries for the prototypes of a composition."""

    def __init__(
        self,
        library: Library,
        elements: NDArray[np.int64],
        counts: Counts,
        divisor: int = 1,
        penalty: float = 0.0,
    ) -> None:
        self.library, self.divisor = library, divisor
        self.elements, self.counts = elements, counts
        self.group = library.group(self.counts)
        if not len(self.group):
            return
        self.logits = self.group.logits(self.elements) - penalty
        self.known = self.group.same_compound(self.elements)
        self.logits[self.known, 0] += self._bonus(self.group.members[self.known])

    def _bonus(self, known: NDArray[np.int64]) -> NDArray[np.float64]:
        """What entries of the very formula gain, from what is known of their stability."""
        entries = self.library.entries
        hull = entries.e_above_hull[known].astype(np.float64)
        bonus = KNOWN_STABLE * np.exp(-hull / ON_HULL) - KNOWN_ABOVE_HULL * hull
        bonus = np.maximum(bonus, KNOWN_LEAST)
        unsure = KNOWN_UNSURE - KNOWN_ABOVE_HULL * self.group.above_hull[self.known]
        bonus = np.where(np.isnan(hull), np.maximum(unsure, KNOWN_LEAST), bonus)
        own = np.array([name == OWN_SOURCE for name, _ in entries.sources])
        return np.where(own[entries.source[known]], KNOWN_OWN, bonus)

    def exclude(self, excluded: set[int], formula: bool, space_group: int | None) -> None:
        """Silence entries; done once, before anything else is asked."""
        out = np.isin(self.group.members, sorted(excluded)) | (self.known & formula)
        if space_group is not None:
            out |= self.library.entries.space_groups[self.group.members] != space_group
        self.logits[out] = -np.inf

    @cached_property
    def usual_volume(self) -> float:
        """Of the asked cell in Å³, as far as its composition tells."""
        volumes = self.library.similarity.cell_volumes(self.elements[None], self.counts)
        return self.divisor * float(volumes[0])

    def weigh(self, largest: float, total: float) -> None:
        """Fix the weights of all placements, as shares of all ballots together."""
        self.weights = np.exp(self.logits.reshape(-1) - largest) / total
        self.left = self.weights.copy()
        self.first_votes = self.group.voters @ self.weights
        self.votes_left = self.first_votes.copy()

    def best(self) -> tuple[float, int]:
        """The column with most votes left, and how many."""
        column = int(self.votes_left.argmax())
        return float(self.votes_left[column]), column

    def elect(self, column: int, share: float, order: int) -> Proposal:
        """The proposal for a column, whose voters have no voice from now on."""
        group, cases = self.group, len(self.group.renamings)
        voters = group.voters[column].indices
        left = self.left[voters]
        total = float(left.sum())
        # Which of the prototype's symmetries most of its voters have, then the nearest of those.
        entries = self.library.entries
        groups = entries.space_groups[group.members[voters // cases]]
        # The matcher does not tell rock salt from zinc blende: hypothetical voters and those far
        # above the hull have less to say about symmetry.
        heaviest = np.bincount(groups, weights=left * group.trust[voters // cases]).argmax()
        chosen = int(voters[np.where(groups == heaviest, left, -1.0).argmax()])
        placed, case = divmod(chosen, cases)
        source = int(group.members[placed])
        factors = np.log(group.volume_factors[voters // cases])
        factor = float((factors * left).sum() / total)
        parts = {
            "share": share,
            "marginal": float(self.first_votes[column]),
            "order": float(order),
            "nearest": float(-self.logits[placed, case]),
            "voters": total**2 / float((left**2).sum()),
            "symmetry_share": float(left[groups == heaviest].sum() / total),
            "members": float(len(np.unique(voters // cases))),
            "group": float(len(group)),
            "multiple": float(self.divisor),
            "known": float(self.known[placed]),
            "own": float(self.known[placed] and entries.source_of(source)[0] == OWN_SOURCE),
            "known_above": self._known_above(voters[groups == heaviest]),
            "volume_factor": factor,
            "e_above_hull": float(entries.e_above_hull[source]),
            "trusted": float((left * group.trust[voters // cases]).sum() / total),
            "split": 0.0,
            "merged": 0.0,
        }
        # The matcher is loose: zinc blende passes for rock salt. Voters of another symmetry keep
        # some of their weight, so that both are proposed.
        kept = np.where(groups == heaviest, 0.0, OTHER_SYMMETRY)
        self.votes_left -= group.votes[voters].T @ (left * (1 - kept))
        self.left[voters] = left * kept
        return self._proposal(placed, case, column // cases, share, factor, parts)

    def _known_above(self, voters: NDArray[np.int64]) -> float:
        """By how much (eV/atom) this is known not to be the best structure of the very formula.

        Estimates do not count: they are wrong too often to say that of what somebody found.
        """
        placed, case = np.divmod(voters, len(self.group.renamings))
        heard = np.isfinite(self.logits[placed, case])
        same = placed[self.known[placed] & (case == 0) & heard]
        above = self.library.entries.e_above_hull[self.group.members[same]].astype(np.float64)
        return float(above.min()) if len(above) and np.isfinite(above).all() else 0.0

    def _proposal(
        self, placed: int, case: int, leader: int, share: float, factor: float,
        parts: dict[str, float],
    ) -> Proposal:  # fmt: skip
        entries, group = self.library.entries, self.group
        entry = int(group.members[placed])
        numbers, frac, lattice = self._arrays(entry, case)
        volume = self.usual_volume * np.exp(TEMPLATE_VOLUME * factor)
        now = abs(np.linalg.det(lattice))
        return Proposal(
            numbers,
            frac,
            lattice * (volume / now) ** (1 / 3),
            prototype_id=group.leader_id(leader),
            space_group=int(entries.space_groups[entry]),
            score=share,
            parts=parts,
            **source_of(entries, entry),
        )

    def _arrays(
        self, entry: int, case: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """The template with the asked elements, in the asked cell size."""
        entries = self.library.entries
        renamed = np.empty(len(self.elements), dtype=np.int64)
        renamed[self.group.renamings[case]] = self.elements
        numbers = np.repeat(renamed, self.counts)
        lattice = entries.lattices[entry].astype(np.float64)
        frac = entries.frac(entry)
        if self.divisor > 1:
            lattice, frac, numbers = supercell(lattice, frac, numbers, self.divisor)
        return numbers, frac, lattice


def elect(ballots: list[Ballot], n: int) -> list[Proposal]:
    """Up to n proposals of all ballots together, the likeliest first."""
    finite = [b for b in ballots if np.isfinite(b.logits).any()]
    if not finite:
        return []
    largest = max(float(b.logits.max()) for b in finite)
    total = sum(float(np.exp(b.logits - largest).sum()) for b in finite)
    for ballot in finite:
        ballot.weigh(largest, total)
    tops = [ballot.best() for ballot in finite]
    found: list[Proposal] = []
    while len(found) < n:
        i = int(np.argmax([share for share, _ in tops]))
        share, column = tops[i]
        if share < _LEAST:
            break
        found.append(finite[i].elect(column, share, len(found)))
        tops[i] = finite[i].best()
    return found
