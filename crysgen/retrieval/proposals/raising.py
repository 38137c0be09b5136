"""Structures of subgroups of a space group, moved onto it: perovskites without their tilts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from crysgen.retrieval.proposals.proposal import Proposal
from crysmetrics.space_group_settings import point_group_order
from crysmetrics.symmetry import Cell, standard_primitive_cell

TOLERANCES = (0.2, 0.4, 0.8)
"""Å within which symmetry is found, the smallest first: at larger ones a structure may have more
than is wanted."""
LOOKED_AT = 40
"""Proposals of lower symmetry that are looked at, the likeliest."""


def raised_to(proposals: Sequence[Proposal], number: int, sizes: Collection[int]) -> list[Proposal]:
    """Move proposals of lower symmetry onto a space group where they are distortions of it.

    Args:
        proposals: of any space groups; those of this one, and of others that can't be its
            subgroups, are left out.
        number: of the wanted space group.
        sizes: numbers of atoms that primitive cells may have.

    Returns:
        Those that have the group now, in primitive cells, in their order.
    """
    order = point_group_order(number)
    lower = [
        p
        for p in proposals
        if p.space_group != number and order % point_group_order(p.space_group) == 0
    ]
    raised = [_raised(p, number) for p in lower[:LOOKED_AT]]
    return [p for p in raised if p is not None and p.num_atoms in sizes]


def _raised(proposal: Proposal, number: int) -> Proposal | None:
    cell = Cell(proposal.lattice, proposal.frac_coords, proposal.atomic_numbers)
    for tolerance in TOLERANCES:
        found = standard_primitive_cell(cell, tolerance)
        if found is not None and found[1] == number:
            lattice, frac, atoms = found[0]
            return replace(
                proposal,
                lattice=lattice,
                frac_coords=frac,
                atomic_numbers=atoms,
                space_group=number,
            )
    return None
