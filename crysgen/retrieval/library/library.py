"""A library of real crystals, and what it proposes for a composition."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from math import gcd
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts, slot_numbers, slots_of, sorted_slots
from crysgen.retrieval.library.entries import Entries, load_entries
from crysgen.retrieval.library.groups import Group
from crysgen.retrieval.proposals.proposal import Proposal
from crysgen.retrieval.proposals.template_ranking import TEMPLATE_VOLUME, Ballot, elect
from crysgen.retrieval.scoring.calibration import calibrated
from crysgen.retrieval.scoring.similarity import Similarity, load_similarity
from crysgen.retrieval.scoring.volume import load_packing, surroundings_of
from crysmetrics.errors import UserError

SHIPPED = "library.npz"
"""Name of the shipped library."""
DATA_FILES = (
    "calibration.json",
    "library.npz",
    "volume.npz",
    "plausibility.safetensors",
    "similarity.npz",
)
"""Names of all shipped files, in the order of their hash."""
TEMPLATE_RESIDUAL, VOTED = 0.5, 0.25
"""How much of what the volume network is wrong by for a template holds for a proposal as well; and
how much the mean of the voters has to say beside it. Best on `val`."""
MULTIPLE_PENALTY = 2.0
"""Taken from the logits of a smaller primitive cell when a larger cell is asked for."""
DIRECT, DECORATED, MERGED = 60, 40, 8
"""Proposals that are looked at before the best are chosen: elected ones, decorated ones of all cell
sizes, and merged ones of each."""
DECORATED_LEAST = 12
"""Decorated ones of each cell size."""
SURE = 0.97
"""Share of votes beyond which decorations are not looked for."""


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
            path: a file that `crysgen.retrieval.library.build` wrote; the shipped one by default.
            extra: more library files, such as the user's own (the default: it is read if there
                is one; an empty list for none).
            judged: whether the network of `plausibility` has a say; its training does without.

        Raises:
            InputError: if one of them is no library.
        """
        from crysgen.retrieval.library.user import user_library

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
        return calibrated(found, by_formula=len(units) > 1)[:n]

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
            from crysgen.retrieval.proposals.decoration import decorated
            from crysgen.retrieval.proposals.merging import distinct, merged

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
            from crysgen.retrieval.scoring.plausibility import load_plausibility

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


def _around(proposal: Proposal, elements: NDArray[np.int64], counts: Counts) -> NDArray[np.float32]:
    """Its surroundings, by slots."""
    order = np.argsort(slot_numbers(proposal.atomic_numbers, elements), kind="stable")
    return surroundings_of(proposal.lattice, proposal.frac_coords[order], counts)


def library_files() -> list[Path]:
    """The files that decide what is proposed: both libraries, and what was learned from them.

    Their order is part of the hash by which a run knows its library again.
    """
    from crysgen.retrieval.library.user import user_library

    folder = Path(str(files("crysgen.retrieval.data")))
    own = user_library()
    return [*(folder / name for name in DATA_FILES), *([own] if own.is_file() else [])]


def shipped_library() -> Path:
    """The file that comes with the package.

    Raises:
        UserError: if it is missing.
    """
    path = Path(str(files("crysgen.retrieval.data").joinpath(SHIPPED)))
    if not path.is_file():
        raise UserError(f"The library {SHIPPED} is missing from this installation.")
    return path
