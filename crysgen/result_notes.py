"""Sentences that a reader of a result should know: what was left out, and what a formula means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crysgen.compositions.formulas import Formula
from crysgen.requests import CompositionRequest
from crysgen.settings import SamplingSettings
from crysmetrics.io import Crystals

_LEAST_METALS = 5
_SHARES = (0.05, 0.35)
"""Principal elements of high-entropy alloys: at least five, each 5 to 35 % of the metal atoms (Yeh
et al., Adv. Eng. Mater. 6, 299 (2004))."""
_NAMED = 3
"""Formulas that a sentence names."""


def is_high_entropy(formula: Formula) -> bool:
    """Tell whether at least five metals share the metal sites in like amounts.

    Such crystals, alloys or their oxides and carbides, are solid solutions.
    """
    from pymatgen.core import Element

    metals = [n for z, n in formula.counts.items() if Element.from_Z(z).is_metal]
    low, high = _SHARES
    principal = [n for n in metals if low <= n / sum(metals) <= high]
    return len(principal) >= _LEAST_METALS


def notes_on_compositions(requests: Sequence[CompositionRequest]) -> tuple[str, ...]:
    """Say which formulas are those of solid solutions, of which files hold ordered cells."""
    found = [request.formula.text for request in requests if is_high_entropy(request.formula)]
    if not found:
        return ()
    names = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED} more" * (len(found) > _NAMED))
    return (
        f"{names}: so many metals in like amounts usually form a disordered solid solution (a "
        "high-entropy compound). Each structure here is one ordered cell of it; many others are as "
        "likely.",
    )


def notes_on_numbers(
    requests: Sequence[CompositionRequest],
    settings: SamplingSettings,
    made: int,
    kept: int,
    crystals: Crystals,
    failures: Sequence[Mapping[str, str]],
) -> tuple[str, ...]:
    """Say why there are fewer structures than were asked for.

    Args:
        requests: compositions and how many samples of each.
        settings: of the run.
        made: candidates of all methods.
        kept: those of them that have the space group asked for.
        crystals: the result.
        failures: what could not be made, which is named elsewhere.
    """
    wanted = sum(request.count for request in requests)
    if len(crystals) + len(failures) >= wanted:
        return ()
    structures = "structure" if len(crystals) == 1 else "different structures"
    group = ""
    if settings.space_group is not None:
        from crysmetrics.space_group_settings import short_symbol

        symbol = short_symbol(settings.space_group)
        group = f" of space group {symbol} ({settings.space_group})"
    if kept < made:
        why = f"of {made:,} candidates {kept:,} are of that group, and equal ones are listed once"
    elif len(crystals) < made:
        why = f"there were {made:,} candidates, and equal ones are listed once"
    else:
        why = "there were no other candidates"
    return (f"{len(crystals):,} {structures}{group} where {wanted:,} were asked for: {why}.",)
