"""Fillings of a formula in cells of several sizes, likeliest first."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from math import log

from crysgen.compositions.formula_units import likelihoods
from crysgen.compositions.formulas import Formula
from crysgen.wyckoff.fillings import (
    Filling,
    Fillings,
    contents_of,
    possible_units,
    why_impossible,
)
from crysgen.wyckoff.frequencies import orbit_score
from crysmetrics.errors import UserError
from crysmetrics.space_groups.groups import SpaceGroup

_RARE = 0.001
"""Share of cell sizes that real compounds of a type do not have."""


def list_fillings(
    formula: Formula,
    space_group: SpaceGroup,
    units: Sequence[int] | None,
    max_atoms: int,
    count: int,
) -> tuple[dict[int, int], list[Filling]]:
    """Count all fillings of each cell size, and list the likeliest of all sizes together.

    Args:
        formula: as written.
        space_group: whose positions are filled.
        units: formula units of the primitive cell; None for all that work.
        max_atoms: of primitive cells, where `units` is None.
        count: fillings listed at most.

    Returns:
        Formula units -> number of fillings, and the likeliest fillings.

    Raises:
        UserError: if a size that was asked for has no filling, or none up to `max_atoms` has.
    """
    if units is None:
        most = max(max_atoms // formula.num_atoms, 1)
        works = possible_units(formula, space_group, most)
        if not works:
            raise UserError(why_impossible(formula, most, space_group, or_fewer=True))
        shares = likelihoods(formula, max(max_atoms, formula.num_atoms))
    else:
        works, shares = list(units), dict.fromkeys(units, 1.0)
    counts: dict[int, int] = {}
    listed: list[Iterator[Filling]] = []
    score = orbit_score(space_group, formula)
    for number in works:
        ways = Fillings(space_group, contents_of(formula, number, space_group))
        if not ways.count:
            raise UserError(why_impossible(formula, number, space_group))
        counts[number] = ways.count
        listed.append(_with_share(ways.likeliest(score), number, shares.get(number, _RARE)))
    merged = heapq.merge(*listed, key=lambda filling: -filling.score)
    return counts, list(islice(merged, count))


def _with_share(fillings: Iterator[Filling], units: int, share: float) -> Iterator[Filling]:
    """Note the formula units in fillings, and add the logarithm of their share to scores."""
    for filling in fillings:
        yield replace(filling, units=units, score=filling.score + log(share))
