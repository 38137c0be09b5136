"""Rank the templates of a library for a composition.

Every entry of the same anonymous formula supports the prototypes it matches, the more the nearer
its composition is. The prototype with most support comes first; then the entries that supported it
are taken out, and the rest counts anew, so that each proposal is the best guess if all before it
were wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from math import gcd

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import sorted_species
from crysgen.retrieval.library.entries import USER_SOURCE
from crysgen.retrieval.library.groups import AnonymousFormulaGroup
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.proposals.proposal import (
    Proposal,
    ProposalFeatures,
    source_of,
    status_of,
    supercell,
)
from crysgen.retrieval.scoring.volume import TEMPLATE_VOLUME

STABLE_BONUS = 4.0
"""Added to the logit of an entry of the very formula that lies on the convex hull."""
UNKNOWN_PENALTY = -3.0
"""Added to the logit of an entry of the very formula whose distance from the hull is unknown."""
ABOVE_HULL_PENALTY = 200.0
"""Subtracted from the logit of an entry of the very formula for each eV/atom above the hull, known
or estimated: what lies there has a better structure."""
LOWEST_BONUS = -12.0
"""Lower bound of the sum of these terms for an entry of the very formula."""
USER_BONUS = 10.0
"""Added to the logit of an entry of the very formula that users added themselves, instead."""
ON_HULL = 0.001
"""Distance above the hull in eV/atom at which the bonus of stable entries has fallen e-fold."""
MULTIPLE_PENALTY = 2.0
"""Subtracted from logits where the template is a multiple of a smaller primitive cell."""
OTHER_SYMMETRY = 0.1
"""Share of its weight that a supporting entry keeps when its prototype has been proposed with the
space group of others: matching is loose, so that zinc blende passes for rock salt."""
_LEAST_SHARE = 1e-9
"""Share of all weight below which templates are not proposed."""


class TemplateScores:
    """Weights of the templates of one group for a composition.

    A *site mapping* is an entry with a permutation of species, a *column* a prototype with a
    permutation: see `AnonymousFormulaGroup`.

    Args:
        group: entries of the anonymous formula of the cell.
        elements: (k,) atomic numbers of the composition, in the order of the group's species.
        divisor: primitive cells of the group in the cell that is asked for.
        penalty: subtracted from all logits.
    """

    def __init__(
        self,
        group: AnonymousFormulaGroup,
        elements: NDArray[np.int64],
        divisor: int = 1,
        penalty: float = 0.0,
    ) -> None:
        self.group, self.elements, self.divisor = group, elements, divisor
        self.logits = group.logits(elements) - penalty
        self.is_same = group.same_compound(elements)
        self.logits[self.is_same, 0] += self._bonus(group.members[self.is_same])

    def _bonus(self, entries_of_formula: NDArray[np.int64]) -> NDArray[np.float64]:
        """Judge entries of the very formula by their stability; added to logits."""
        entries = self.group.entries
        hull = entries.e_above_hull[entries_of_formula].astype(np.float64)
        bonus = STABLE_BONUS * np.exp(-hull / ON_HULL) - ABOVE_HULL_PENALTY * hull
        bonus = np.maximum(bonus, LOWEST_BONUS)
        estimated = UNKNOWN_PENALTY - ABOVE_HULL_PENALTY * self.group.above_hull[self.is_same]
        bonus = np.where(np.isnan(hull), np.maximum(estimated, LOWEST_BONUS), bonus)
        is_user = np.array([name == USER_SOURCE for name, _ in entries.sources])
        return np.where(is_user[entries.source[entries_of_formula]], USER_BONUS, bonus)

    def exclude(self, excluded: Collection[int], formula: bool, space_group: int | None) -> None:
        """Set logits of excluded entries to -inf; call once, before `normalise`.

        Args:
            excluded: indices into the library.
            formula: whether all entries of the very formula are excluded.
            space_group: the only one that templates may have; None for any.
        """
        members = self.group.members
        out = np.isin(members, sorted(excluded)) | (self.is_same & formula)
        if space_group is not None:
            out |= self.group.entries.space_groups[members] != space_group
        self.logits[out] = -np.inf

    @cached_property
    def usual_volume(self) -> float:
        """Volume in Å³ of the cell that is asked for, by its composition alone."""
        volumes = self.group.similarity.cell_volumes(self.elements[None], self.group.counts)
        return self.divisor * float(volumes[0])

    def normalise(self, largest: float, total: float) -> None:
        """Turn logits into weights, as shares of the weight of all groups together.

        Args:
            largest: logit of all groups.
            total: sum of exp(logit - largest) over all groups.
        """
        weights = np.exp(self.logits.reshape(-1) - largest) / total
        self.weights_left = weights.copy()
        self.first_shares = self.group.mappings_of_columns @ weights
        self.shares_left = self.first_shares.copy()

    def best(self) -> tuple[float, int]:
        """Find the column with the largest share left; returns the share and the column."""
        column = int(self.shares_left.argmax())
        return float(self.shares_left[column]), column

    def take(self, column: int, share: float) -> Proposal:
        """Propose a column's template, and take its supporting entries out."""
        group, entries = self.group, self.group.entries
        number = len(group.permutations)
        mappings = group.mappings_of_columns[column].indices
        supporting = mappings // number
        left = self.weights_left[mappings]
        # The space group that most supporting entries have, then the nearest entry with it.
        groups = entries.space_groups[group.members[supporting]]
        # Hypothetical entries and those far above the hull count less where symmetry is decided.
        chosen_group = np.bincount(groups, weights=left * group.trust[supporting]).argmax()
        same_group = groups == chosen_group
        mapping = int(mappings[np.where(same_group, left, -1.0).argmax()])
        features = self._features(column, share, mapping, mappings, same_group)
        kept = np.where(same_group, 0.0, OTHER_SYMMETRY)
        self.shares_left -= group.columns_of_mappings[mappings].T @ (left * (1 - kept))
        self.weights_left[mappings] = left * kept
        return self._proposal(mapping, column // number, features)

    def _features(
        self,
        column: int,
        share: float,
        mapping: int,
        mappings: NDArray[np.int64],
        same_group: NDArray[np.bool_],
    ) -> ProposalFeatures:
        """Describe the support of a template; `same_group` marks mappings of its space group."""
        group, entries = self.group, self.group.entries
        number = len(group.permutations)
        supporting, left = mappings // number, self.weights_left[mappings]
        total = float(left.sum())
        member, permutation = divmod(mapping, number)
        source = int(group.members[member])
        is_user = self.is_same[member] and entries.source_of(source)[0] == USER_SOURCE
        log_factors = np.log(group.volume_factors[supporting])
        return ProposalFeatures(
            share=share,
            first_share=float(self.first_shares[column]),
            nearest=float(-self.logits[member, permutation]),
            effective_support=total**2 / float((left**2).sum()),
            num_supporting=len(np.unique(supporting)),
            stable_weight=float((left * group.trust[supporting]).sum() / total),
            volume_factor=float((log_factors * left).sum() / total),
            e_above_hull=float(entries.e_above_hull[source]),
            known_above_hull=self._known_above_hull(mappings[same_group]),
            user_entry=bool(is_user),
            multiple=self.divisor,
        )

    def _known_above_hull(self, mappings: NDArray[np.int64]) -> float:
        """Find the lowest e_above_hull (eV/atom) of supporting entries of the very formula.

        It is 0 unless known of all of them: estimates are wrong too often to condemn a structure.
        """
        member, permutation = np.divmod(mappings, len(self.group.permutations))
        is_in = np.isfinite(self.logits[member, permutation])
        same = member[self.is_same[member] & (permutation == 0) & is_in]
        above = self.group.entries.e_above_hull[self.group.members[same]].astype(np.float64)
        return float(above.min()) if len(above) and np.isfinite(above).all() else 0.0

    def _proposal(self, mapping: int, prototype: int, features: ProposalFeatures) -> Proposal:
        """Put the elements into a template, at the volume that supporting entries suggest."""
        group, entries = self.group, self.group.entries
        member, permutation = divmod(mapping, len(group.permutations))
        entry = int(group.members[member])
        numbers, frac_coords, lattice = self._arrays(entry, permutation)
        volume = self.usual_volume * np.exp(TEMPLATE_VOLUME * features.volume_factor)
        now = abs(np.linalg.det(lattice))
        return Proposal(
            numbers,
            frac_coords,
            lattice * (volume / now) ** (1 / 3),
            prototype_id=group.representative_id(prototype),
            space_group=int(entries.space_groups[entry]),
            score=features.share,
            features=features,
            known=status_of(entries, entry) if self.is_same[member] and not permutation else "",
            **source_of(entries, entry),
        )

    def _arrays(
        self, entry: int, permutation: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Return atomic numbers, fractional coordinates and lattice with the elements put in."""
        entries = self.group.entries
        permuted = np.empty(len(self.elements), dtype=np.int64)
        permuted[self.group.permutations[permutation]] = self.elements
        numbers = np.repeat(permuted, self.group.counts)
        lattice = entries.lattices[entry].astype(np.float64)
        frac = entries.frac(entry)
        if self.divisor > 1:
            lattice, frac, numbers = supercell(lattice, frac, numbers, self.divisor)
        return numbers, frac, lattice


def select(scores: Sequence[TemplateScores], n: int) -> list[Proposal]:
    """Propose up to n templates of several groups together, the likeliest first."""
    finite = [one for one in scores if np.isfinite(one.logits).any()]
    if not finite:
        return []
    largest = max(float(one.logits.max()) for one in finite)
    total = sum(float(np.exp(one.logits - largest).sum()) for one in finite)
    for one in finite:
        one.normalise(largest, total)
    tops = [one.best() for one in finite]
    found: list[Proposal] = []
    while len(found) < n:
        i = int(np.argmax([share for share, _ in tops]))
        share, column = tops[i]
        if share < _LEAST_SHARE:
            break
        found.append(finite[i].take(column, share))
        tops[i] = finite[i].best()
    return found


def ranked_templates(
    library: Library,
    atoms: Mapping[int, int],
    n: int,
    units: Sequence[int] = (1,),
    excluded: Collection[int] = (),
    exclude_formula: bool = False,
    space_group: int | None = None,
) -> list[Proposal]:
    """Propose up to n templates for a composition, with the volumes that their support suggests.

    Args:
        library: where templates come from.
        atoms: number of atoms of each element.
        n: how many at most.
        units: cell sizes as multiples of `atoms`; templates of all sizes compete.
        excluded: indices of entries that are not used.
        exclude_formula: whether no entry of the very formula is used.
        space_group: the only one that templates may have; None for any.
    """
    scores = []
    for unit in units:
        for divisor, penalty in _divisors(atoms, unit, units):
            cell = {z: count * unit // divisor for z, count in atoms.items()}
            elements, counts = sorted_species(cell)
            group = library.group(counts)
            if len(group):
                one = TemplateScores(group, elements, divisor, penalty)
                one.exclude(excluded, exclude_formula, space_group)
                scores.append(one)
    return select(scores, n)


def _divisors(atoms: Mapping[int, int], unit: int, units: Sequence[int]) -> list[tuple[int, float]]:
    """List the divisors of a cell that leave a smaller one to repeat, with their penalties."""
    common = gcd(*atoms.values()) * unit
    smaller = {gcd(*atoms.values()) * u for u in units}
    return [
        (m, MULTIPLE_PENALTY * (m > 1))
        for m in range(1, common + 1)
        # A smaller cell that is asked for as well need not be repeated.
        if common % m == 0 and (m == 1 or common // m not in smaller)
    ]
