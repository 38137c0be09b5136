"""Propose templates with one species more, two of whose species become the same element.

Silicon from zinc blende, corundum from ilmenite: simple compounds whose own prototype is rare
among the entries are often a special case of a common one. The reverse of `decoration`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts, species_indices, species_of
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.library.prototypes import (
    STRICT,
    PrimitiveCrystal,
    displacements,
    niggli_cells,
    primitive_crystal,
)
from crysgen.retrieval.proposals.proposal import Proposal, to_crystals
from crysgen.retrieval.proposals.template_ranking import TemplateScores, select

SYMMETRIC_WITHIN = (0.3, 0.1)
"""Tolerances in Å, in the order of trial, of the higher symmetry that equal species may have."""
MAX_ELEMENTS = 2
"""Number of elements of compounds beyond which prototypes of their own are known."""


def merged(
    library: Library,
    atoms: Mapping[int, int],
    n: int,
    excluded: Collection[int],
    exclude_formula: bool,
) -> list[Proposal]:
    """Propose up to n templates that have two species where the compound has one.

    Args:
        library: where parents come from.
        atoms: number of atoms of each element in the cell.
        n: how many at most.
        excluded: indices of entries that are not used.
        exclude_formula: as in `propose`; parents are of another formula anyway.
    """
    if len(atoms) > MAX_ELEMENTS:
        return []
    scores = []
    for elements, counts in halved(atoms):
        group = library.group(counts)
        if len(group):
            one = TemplateScores(group, elements)
            one.exclude(excluded, exclude_formula, None)
            scores.append(one)
    found = []
    for proposal in select(scores, n):
        features = replace(proposal.features, is_merged=True)
        whole = replace(proposal, features=features, method="merging")
        found.append(symmetrised(whole))
    return found


def halved(atoms: Mapping[int, int]) -> Iterator[tuple[NDArray[np.int64], Counts]]:
    """Halve each species of even count in turn; yields elements (k,) and counts of species."""
    for z, count in atoms.items():
        if count % 2 == 0:
            pairs = [(c, other) for other, c in atoms.items() if other != z]
            pairs = sorted([*pairs, (count // 2, z), (count // 2, z)])
            yield np.array([p[1] for p in pairs]), tuple(p[0] for p in pairs)


def symmetrised(proposal: Proposal) -> Proposal:
    """Move atoms onto the symmetry that equal species have."""
    for tolerance in SYMMETRIC_WITHIN:
        cell = primitive_crystal(to_crystals([proposal]), tolerance)
        if sum(cell.counts) == proposal.num_atoms:
            return replace(
                proposal,
                atomic_numbers=np.repeat(cell.elements, cell.counts),
                frac_coords=cell.frac_coords,
                lattice=cell.lattice,
                space_group=cell.space_group,
            )
    return proposal


def distinct(proposals: list[Proposal], others: list[Proposal]) -> list[Proposal]:
    """Drop duplicates of `others` and within `proposals`, by strict tolerances."""
    # A larger cell may now be a multiple of a smaller one.
    cells = [as_proposed(p) for p in others] + [
        primitive_crystal(to_crystals([p])) for p in proposals
    ]
    if not len(cells):
        return []
    niggli = niggli_cells([(cell.lattice, cell.frac_coords, cell.species) for cell in cells])
    seen = list(range(len(others)))
    kept = []
    for k, proposal in enumerate(proposals, len(others)):
        pairs = [(k, j) for j in seen if cells[j].counts == cells[k].counts]
        case = np.arange(len(cells[k].counts))[None]
        found = displacements(niggli, niggli, pairs, case, STRICT, any_mapping=True)
        if not np.isfinite(found).any():
            kept.append(proposal)
            seen.append(k)
    return kept


def as_proposed(proposal: Proposal) -> PrimitiveCrystal:
    """Sort the atoms of a proposal by species, in its own cell."""
    elements, counts = species_of(proposal.atomic_numbers)
    order = np.argsort(species_indices(proposal.atomic_numbers, elements), kind="stable")
    frac = proposal.frac_coords[order]
    return PrimitiveCrystal(elements, counts, proposal.lattice, frac, proposal.space_group)
