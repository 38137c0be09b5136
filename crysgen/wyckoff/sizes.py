"""Cell sizes in which the atoms of a request have places in a space group."""

from __future__ import annotations

from dataclasses import replace

from crysgen.compositions.formula_units import MAX_ATOMS, share_out
from crysgen.requests import CompositionRequest
from crysgen.wyckoff.fillings import Fillings, contents_of, possible_units, why_impossible
from crysmetrics.errors import UserError
from crysmetrics.space_groups.groups import space_group


def fit_sizes(
    request: CompositionRequest, number: int, max_atoms: int | None = None
) -> CompositionRequest:
    """Return a request with samples in cells alone that a space group has places for.

    Where none of the usual sizes has any, all others up to `max_atoms` are looked at.

    Args:
        request: of a formula, or of the exact cell of a structure.
        number: of the space group.
        max_atoms: of a cell; 20 by default, or one formula unit where that is more.

    Raises:
        UserError: if a size that was asked for has no place, or none of all has, with the reason
            and the nearest size that works.
    """
    if request.is_free or not request.count:
        return request
    group, formula = space_group(number), request.formula
    if request.is_exact:
        contents = contents_of(formula, 1, group), formula
        if not any(Fillings(group, atoms).count for atoms in contents):
            small = formula.reduced
            raise UserError(why_impossible(small, formula.num_atoms // small.num_atoms, group))
        return request
    most = max(MAX_ATOMS, formula.num_atoms) if max_atoms is None else max_atoms
    works = possible_units(formula, group, most // formula.num_atoms)
    usual = [unit for unit, _ in request.sizes]
    missing = [unit for unit in usual if unit not in works]
    if not request.any_cell and missing:
        raise UserError(why_impossible(formula, missing[0], group))
    if not works:
        raise UserError(why_impossible(formula, most // formula.num_atoms, group, or_fewer=True))
    kept = {unit: n for unit, n in request.sizes if unit in works}
    if not kept:
        likely = [unit for unit in request.units if unit in works] or works[:1]
        kept = share_out(formula, request.count, likely, most)
    elif missing:
        kept = _enlarged(kept, request.count)
    units = tuple(unit for unit in request.units if unit in works) or tuple(kept)
    return replace(request, sizes=tuple(kept.items()), all_units=units)


def _enlarged(kept: dict[int, int], count: int) -> dict[int, int]:
    """Give each size the same share of more samples, the first ones what is left over."""
    total = sum(kept.values())
    found = {unit: n * count // total for unit, n in kept.items()}
    for unit in list(found)[: count - sum(found.values())]:
        found[unit] += 1
    return found
