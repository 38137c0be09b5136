"""A library of real crystals, and what it proposes for a composition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.resources import files
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.calibration import calibrated
from crysgen.retrieval.entries import Entries, load_entries
from crysgen.retrieval.group import Group
from crysgen.retrieval.packing import load_packing, surroundings_of
from crysgen.retrieval.proposals import Proposal, source_of, supercell
from crysgen.retrieval.similarity import Similarity, load_similarity
from crysgen.retrieval.species import Counts, slot_numbers, slots_of, sorted_slots
from crysmetrics.errors import UserError

SHIPPED = "library.npz"
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
TEMPLATE_RESIDUAL, VOTED = 0.5, 0.25
"""How much of what the volume network is wrong by for a template holds for a proposal as well; and
how much the mean of the voters has to say beside it. Best on `val`."""
MULTIPLE_PENALTY = 2.0
"""Taken from the logits of a smaller primitive cell when a larger cell is asked for."""
OTHER_SYMMETRY = 0.1
"""Share of its vote that an entry keeps when its prototype was proposed with another symmetry."""
DIRECT, DECORATED, MERGED = 60, 40, 8
"""Proposals that are looked at before the best are chosen: elected ones, decorated ones of all cell
sizes, and merged ones of each."""
DECORATED_LEAST = 12
"""Decorated ones of each cell size."""
SURE = 0.97
"""Share of votes beyond which decorations are not looked for."""
_LEAST = 1e-9


class Library:
    """Known structures, indexed by anonymous formula.

    Attributes:
        entries: the crystals.
        similarity: learned networks that say how alike compounds are, and their volumes.
        packing: learned networks for volumes of known structures.
        judged: whether `plausibility` has a say.
    """

    def __init__(
        self, entries: Entries, similarity: Similarity | None = None, judged: bool = True
    ) -> None:
        self.entries = entries
        self.similarity = similarity or load_similarity()
        self.packing = load_packing()
        self.judged = judged
        self._groups: dict[Counts, Group] = {}
        self._residuals: dict[int, float] = {}

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        extra: Iterable[str | Path] | None = None,
        *,
        judged: bool = True,
    ) -> Library:
        """Read a library.

        Args:
            path: a file that `crysgen.retrieval.build` wrote; the shipped one by default.
            extra: more library files, such as the user's own (the default: it is read if there
                is one; an empty list for none).
            judged: whether the network of `plausibility` has a say; only its training does without.

        Raises:
            InputError: if one of them is no library.
        """
        from crysgen.retrieval.user import user_library

        entries = load_entries(shipped_library() if path is None else path)
        if extra is None:
            own = user_library()
            extra = [own] if path is None and own.is_file() else []
        for more in extra:
            entries = entries.joined(load_entries(more))
        return cls(entries, judged=judged)

    def __len__(self) -> int:
        return len(self.entries)

    def group(self, counts: Counts) -> Group:
        """The entries with these anonymous counts."""
        if counts not in self._groups:
            self._groups[counts] = Group(self.entries, counts, self.similarity)
        return self._groups[counts]

    def propose(
        self,
        atoms: Mapping[int, int],
        n: int = 20,
        *,
        units: Sequence[int] = (1,),
        exclude_ids: Collection[str] = (),
        exclude_formula: bool = False,
        space_group: int | None = None,
        decorate: bool = True,
    ) -> list[Proposal]:
        """Different prototypes with the asked elements, the likeliest first.

        Every entry of the same anonymous formula votes for the prototypes it belongs to, the more
        the nearer its composition is. The prototype with most votes comes first; then those who
        voted for it are out, and the rest vote again, so that each proposal is the best guess if
        all before it were wrong. A regression over votes and geometry has the last word on
        the order (`calibration`).

        Args:
            atoms: number of atoms of each element in the cell, by atomic number.
            n: how many at most.
            units: cell sizes as multiples of `atoms`; proposals of all sizes compete.
            exclude_ids: entries that have no voice.
            exclude_formula: leave out all entries of the asked formula as well (any polymorph).
            space_group: only templates of this space group.
            decorate: split species of templates of simpler formulas where too few are known.

        Returns:
            At most n proposals with exactly the asked composition; fewer, or none, where the
            library knows no prototype.

        Raises:
            UserError: if no atoms are asked for.
        """
        if n < 1:
            raise UserError("At least one proposal must be asked for.")
        found = self.uncalibrated(
            atoms,
            max(n, DIRECT),
            units=units,
            exclude_ids=exclude_ids,
            exclude_formula=exclude_formula,
            space_group=space_group,
            decorate=decorate,
        )
        return calibrated(found)[:n]

    def uncalibrated(
        self,
        atoms: Mapping[int, int],
        n: int = DIRECT,
        *,
        units: Sequence[int] = (1,),
        exclude_ids: Collection[str] = (),
        exclude_formula: bool = False,
        space_group: int | None = None,
        decorate: bool = True,
    ) -> list[Proposal]:
        """Up to n elected proposals, and behind them some decorated ones; see `propose`."""
        if not atoms or min(atoms.values()) < 1:
            raise UserError("Proposals need at least one element, each with at least one atom.")
        excluded = {self.entries.position[i] for i in exclude_ids if i in self.entries.position}
        found = self.elected(atoms, n, units, excluded, exclude_formula, space_group)
        sure = bool(found) and found[0].score > SURE
        if decorate and space_group is None and not sure:
            from crysgen.retrieval.decoration import decorated
            from crysgen.retrieval.merging import distinct, merged

            cells = [{z: c * unit for z, c in atoms.items()} for unit in units]
            more = [p for cell in cells
                    for p in merged(self, cell, MERGED, excluded, exclude_formula)]  # fmt: skip
            found += distinct(more, found)
            for cell in cells:
                most = max(DECORATED // len(cells), DECORATED_LEAST)
                found += decorated(self, cell, most, excluded, exclude_formula)
        return self.judge(self.sized(found))

    def elected(
        self,
        atoms: Mapping[int, int],
        n: int,
        units: Sequence[int],
        excluded: set[int],
        exclude_formula: bool = False,
        space_group: int | None = None,
    ) -> list[Proposal]:
        """Up to n proposals by votes alone, with the volumes that voters suggest."""
        ballots = [
            Ballot(self, *sorted_slots({z: c * unit // divisor for z, c in atoms.items()}),
                   divisor, penalty)
            for unit in units
            for divisor, penalty in self._divisors(atoms, unit, units)
        ]  # fmt: skip
        ballots = [ballot for ballot in ballots if len(ballot.group)]
        for ballot in ballots:
            ballot.exclude(excluded, exclude_formula, space_group)
        return elect(ballots, n)

    def sized(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """With the volumes that composition, structure, template and voters together suggest.

        Args:
            proposals: of one composition; cell sizes may differ.
        """
        found = list(proposals)
        by_size: dict[int, list[int]] = {}
        for k, proposal in enumerate(proposals):
            by_size.setdefault(proposal.num_atoms, []).append(k)
        for rows in by_size.values():
            elements, counts = slots_of(proposals[rows[0]].atomic_numbers)
            around = np.array([_around(proposals[k], elements, counts) for k in rows])
            each = np.repeat(elements[None], len(rows), axis=0)
            own = self.packing.log_volumes(each, counts, around)
            usual = float(np.log(self.similarity.cell_volumes(elements[None], counts)[0]))
            for k, said in zip(rows, own.tolist(), strict=True):
                found[k] = self._sized(proposals[k], said, usual)
        return found

    def _sized(self, proposal: Proposal, own: float, usual: float) -> Proposal:
        """With logarithms of the volumes by the network and by composition alone."""
        voted = usual + TEMPLATE_VOLUME * proposal.parts["volume_factor"]
        template = self._residual(self.entries.position[proposal.template_id])
        volume = (1 - VOTED) * (own + TEMPLATE_RESIDUAL * template) + VOTED * voted
        parts = {**proposal.parts, "quarrel": abs(own + template - voted)}
        return replace(proposal, parts=parts).scaled_to(float(np.exp(volume)))

    def judge(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """With what the network of `plausibility` says of each, as a part."""
        scores = np.zeros(len(proposals))
        if self.judged and proposals:
            from crysgen.retrieval.plausibility import load_plausibility

            cells = [(p.atomic_numbers, p.frac_coords, p.lattice) for p in proposals]
            scores = load_plausibility().scores(cells)
        return [
            replace(p, parts={**p.parts, "plausibility": score})
            for p, score in zip(proposals, scores.tolist(), strict=True)
        ]

    def _residual(self, entry: int) -> float:
        """How much larger an entry is than the networks say, as a logarithm."""
        if entry not in self._residuals:
            lattice = self.entries.lattices[entry].astype(np.float64)
            counts = self.entries.counts(entry)
            around = surroundings_of(lattice, self.entries.frac(entry), counts)
            elements = self.entries.slots(entry)[None]
            said = float(self.packing.log_volumes(elements, counts, around[None])[0])
            self._residuals[entry] = float(np.log(abs(np.linalg.det(lattice)))) - said
        return self._residuals[entry]

    def _divisors(
        self, atoms: Mapping[int, int], unit: int, units: Sequence[int]
    ) -> list[tuple[int, float]]:
        """By what the asked cell may be divided to give a primitive one, with the penalties."""
        common = gcd(*atoms.values()) * unit
        smaller = {gcd(*atoms.values()) * u for u in units}
        return [
            (m, MULTIPLE_PENALTY * (m > 1))
            for m in range(1, common + 1)
            # A smaller cell that is asked for as well need not be repeated.
            if common % m == 0 and (m == 1 or common // m not in smaller)
        ]

    def cell_volume(self, atoms: Mapping[int, int]) -> float:
        """What such a cell measures in Å³, judged by its composition alone."""
        elements, counts = sorted_slots(atoms)
        return float(self.similarity.cell_volumes(elements[None], counts)[0])


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


def _around(proposal: Proposal, elements: NDArray[np.int64], counts: Counts) -> NDArray[np.float32]:
    """Its surroundings, by slots."""
    order = np.argsort(slot_numbers(proposal.atomic_numbers, elements), kind="stable")
    return surroundings_of(proposal.lattice, proposal.frac_coords[order], counts)


def library_files() -> list[Path]:
    """The files that decide what is proposed: both libraries, and what was learned from them."""
    from crysgen.retrieval.user import user_library

    folder = Path(str(files("crysgen.retrieval")))
    own = user_library()
    learned = [path for kind in ("npz", "safetensors", "json") for path in folder.glob(f"*.{kind}")]
    return [*sorted(learned), *([own] if own.is_file() else [])]


def shipped_library() -> Path:
    """The file that comes with the package.

    Raises:
        UserError: if it is missing.
    """
    path = Path(str(files("crysgen.retrieval").joinpath(SHIPPED)))
    if not path.is_file():
        raise UserError(f"The library {SHIPPED} is missing from this installation.")
    return path
