"""Propose structures for a composition: the one door to retrieval.

>>> library = Library.load()                                          # doctest: +SKIP
>>> propose(library, {3: 1, 27: 1, 8: 2}, n=5)                        # doctest: +SKIP

puts lithium, cobalt and oxygen into the structures of compounds that are likely to have the same
one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from crysgen.retrieval.library.library import Library
from crysgen.retrieval.library.prototypes import SYMPREC
from crysgen.retrieval.proposals.decoration import decorated
from crysgen.retrieval.proposals.known import Polymorph, polymorphs, with_known
from crysgen.retrieval.proposals.merging import distinct, merged
from crysgen.retrieval.proposals.proposal import Proposal, to_crystals
from crysgen.retrieval.proposals.raising import raised_to
from crysgen.retrieval.proposals.sizing import with_volumes
from crysgen.retrieval.proposals.supergroups import (
    is_supergroup,
    of_supergroups,
    ranked_behind,
)
from crysgen.retrieval.proposals.template_ranking import ranked_templates
from crysgen.retrieval.scoring.probability import calibrated
from crysmetrics.errors import UserError
from crysmetrics.symmetry import space_groups

TEMPLATES = 60
"""Number of ranked templates from which the best proposals are chosen."""
DECORATED = 40
"""Number of decorated proposals from which the best are chosen, over all cell sizes."""
DECORATED_LEAST = 12
"""Number of decorated proposals of each cell size, where that is more."""
DECORATED_ATOMS = 24
"""Number of atoms of cells beyond which decorated and merged proposals are looked for only where
there are no others: there are too many ways."""
MERGED = 8
"""Number of proposals with merged species from which the best are chosen, of each cell size."""
SURE = 0.97
"""Share of the first template beyond which decorated and merged proposals are not looked for."""


def propose(
    library: Library,
    atoms: Mapping[int, int],
    n: int = 20,
    *,
    units: Sequence[int] = (1,),
    exclude_ids: Collection[str] = (),
    exclude_formula: bool = False,
    space_group: int | None = None,
    decorate: bool = True,
    any_cell: bool = False,
) -> list[Proposal]:
    """Propose different structures with the given elements, the likeliest first.

    Templates are ranked by the entries that support them (`proposals.template_ranking`); templates
    of simpler formulas are decorated, and those of richer ones get equal species; a regression over
    support, geometry and plausibility decides the order (`scoring.calibration`), and another one
    says how sure it is (`scoring.probability`).

    Args:
        library: known crystals.
        atoms: number of atoms of each element in the cell, by atomic number.
        n: how many at most.
        units: cell sizes as multiples of `atoms`; proposals of all sizes compete.
        exclude_ids: entries that are not used.
        exclude_formula: leave out all entries of the very formula as well (any polymorph).
        space_group: only structures that obey this space group; behind those that have it,
            structures of its subgroups that are moved onto it (`proposals.raising`), and then those
            of its supergroups (`proposals.supergroups`).
        decorate: use templates of other formulas where too few are known.
        any_cell: give known structures of the formula whatever their number of atoms, where the
            library holds everything that is known.

    Returns:
        At most n proposals with exactly this composition; fewer, or none, where the library knows
        no prototype.

    Raises:
        UserError: if no atoms, or no proposals, are asked for.
    """
    if n < 1:
        raise UserError("At least one proposal must be asked for.")
    found = uncalibrated(
        library,
        atoms,
        units=units,
        exclude_ids=exclude_ids,
        exclude_formula=exclude_formula,
        space_group=space_group,
        decorate=decorate,
    )
    if space_group is not None:
        found = of_space_group(found, space_group)
    by_formula = len(units) > 1
    found = calibrated(with_plausibility(found), by_formula)
    excluded = excluded_entries(library, exclude_ids)
    if found and len(found) < n:
        more = ranked_templates(library, atoms, n, units, excluded, exclude_formula, space_group)
        more = with_plausibility(with_volumes(library, more[TEMPLATES:]))
        # Order and probabilities of the others are those of any smaller number.
        found += _behind(calibrated(more, by_formula), found)
    others: list[Proposal] = []
    if space_group is not None and len(found) < n:
        others = uncalibrated(
            library,
            atoms,
            units=units,
            exclude_ids=exclude_ids,
            exclude_formula=exclude_formula,
            decorate=decorate,
        )
        sizes = {unit * sum(atoms.values()) for unit in units}
        raised = distinct(raised_to(others, space_group, sizes), found)
        found += _behind(calibrated(with_plausibility(raised), by_formula), found)
    known: list[Polymorph] = []
    if library.everything and not exclude_formula:
        known = polymorphs(library, atoms, None if any_cell else units, excluded)
    if space_group is None:
        return with_known(library, known, found)[:n]
    own = [polymorph for polymorph in known if polymorph.cell.space_group == space_group]
    found = with_known(library, own, found)
    if len(found) < n:
        higher = calibrated(with_plausibility(of_supergroups(others, space_group)), by_formula)
        forms = [one for one in known if is_supergroup(one.cell.space_group, space_group)]
        found += ranked_behind(with_known(library, forms, higher), found)
    return found[:n]


def _behind(more: Sequence[Proposal], found: Sequence[Proposal]) -> list[Proposal]:
    """Lower scores and probabilities of proposals below those of the ones found before."""
    if not found:
        return list(more)
    last = found[-1]
    return [
        replace(p, score=p.score * last.score, probability=p.probability * last.probability)
        for p in more
    ]


def uncalibrated(
    library: Library,
    atoms: Mapping[int, int],
    n: int = TEMPLATES,
    *,
    units: Sequence[int] = (1,),
    exclude_ids: Collection[str] = (),
    exclude_formula: bool = False,
    space_group: int | None = None,
    decorate: bool = True,
) -> list[Proposal]:
    """Propose up to n templates, and behind them merged and decorated ones; see `propose`.

    Scores are not comparable, and the plausibility network has not scored them yet.
    """
    if not atoms or min(atoms.values()) < 1:
        raise UserError("Proposals need at least one element, each with at least one atom.")
    excluded = excluded_entries(library, exclude_ids)
    found = ranked_templates(library, atoms, n, units, excluded, exclude_formula, space_group)
    is_sure = bool(found) and found[0].score > SURE and space_group is None
    if decorate and not is_sure:
        small = [unit for unit in units if unit * sum(atoms.values()) <= DECORATED_ATOMS]
        small = small or ([] if found else list(units))
        cells = [{z: count * unit for z, count in atoms.items()} for unit in small]
        more = [
            proposal
            for cell in cells
            for proposal in merged(library, cell, MERGED, excluded, exclude_formula)
        ]
        found += distinct(more, found)
        most = max(DECORATED // max(len(cells), 1), DECORATED_LEAST)
        for cell in cells:
            found += decorated(library, cell, most, excluded, exclude_formula)
    return with_volumes(library, found)


def of_space_group(proposals: Sequence[Proposal], space_group: int) -> list[Proposal]:
    """Keep the proposals that have a space group, decorated and merged ones by their own."""
    numbers = space_groups(to_crystals(proposals), SYMPREC)
    return [
        replace(p, space_group=space_group)
        for p, number in zip(proposals, numbers.tolist(), strict=True)
        if number == space_group
    ]


def excluded_entries(library: Library, ids: Collection[str]) -> set[int]:
    """Find the indices of entries by their ids; what is not in the library is left out."""
    position = library.entries.position
    return {position[name] for name in ids if name in position}


def with_plausibility(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Add to proposals the score of the plausibility network."""
    if not proposals:
        return []
    from crysgen.retrieval.scoring.plausibility import load_plausibility

    cells = [(p.atomic_numbers, p.frac_coords, p.lattice) for p in proposals]
    scores = load_plausibility().scores(cells)
    return [
        replace(p, features=replace(p.features, plausibility=score))
        for p, score in zip(proposals, np.asarray(scores).tolist(), strict=True)
    ]
