"""Structures with more symmetry than was asked for: rutile, where TiO2 in Pnnm is wanted.

They obey the group, and are what a distorted structure is before its distortion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from crysgen.proposers.base import MORE_SYMMETRIC_TIER
from crysgen.retrieval.library.prototypes import SYMPREC
from crysgen.retrieval.proposals.proposal import Proposal, to_crystals
from crysmetrics.space_groups.subgroups import is_subgroup
from crysmetrics.symmetry import space_groups


def of_supergroups(proposals: Sequence[Proposal], number: int) -> list[Proposal]:
    """Keep the proposals whose space groups are supergroups of one, with all its translations.

    Args:
        proposals: of any space groups; decorated and merged ones are looked at again.
        number: of the wanted space group, 1 to 230, whose own proposals are left out.

    Returns:
        Those that obey it and more, each with the number of its own group, in their order.
    """
    groups = space_groups(to_crystals(proposals), SYMPREC).tolist() if proposals else []
    return [
        replace(p, space_group=group)
        for p, group in zip(proposals, groups, strict=True)
        if is_supergroup(group, number)
    ]


def is_supergroup(group: int, number: int) -> bool:
    """Tell whether a space group has all operations of another, and more."""
    return group != number and is_subgroup(number, of=group)


def ranked_behind(more: Sequence[Proposal], found: Sequence[Proposal]) -> list[Proposal]:
    """Put proposals with more symmetry behind those of the wanted group, in a tier of their own.

    Their probabilities count where none of the wanted group is right.
    """
    unknown = max(1 - sum(p.probability for p in found), 0.0)
    return [replace(p, tier=MORE_SYMMETRIC_TIER, probability=p.probability * unknown) for p in more]
