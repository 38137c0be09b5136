"""List all compositions of a chemical system, the plausible ones first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb, gcd

import numpy as np

from crysgen.compositions.formula_units import MAX_ATOMS, type_frequency
from crysgen.compositions.formulas import Formula
from crysmetrics.errors import UserError
from crysmetrics.io.elements import MAX_ATOMIC_NUMBER

MOST_COMPOSITIONS = 50_000
"""Number of compositions beyond which a system is refused."""
OXIDATION_STATES = ("icsd24-filtered", "smact14")
"""SMACT's sets of oxidation states, common ones before all that are known."""


def compositions(
    elements: Sequence[int], max_atoms: int = MAX_ATOMS, subsystems: bool = False
) -> list[Formula]:
    """List the reduced formulas of a system whose formula unit fits into a cell.

    First come those that SMACT's rule accepts (charge-neutral with the Pauling test, or all
    metals) by oxidation states that are common in the ICSD, then those that it accepts by any
    state, then the others; within each, formula types that many real compounds have go before
    rare ones, and short formulas before long ones.

    Args:
        elements: atomic numbers.
        max_atoms: of a formula unit.
        subsystems: also those that lack some of the elements.

    Raises:
        UserError: if there are none, or more than MOST_COMPOSITIONS.
    """
    count = len(elements)
    sizes = range(1, count + 1) if subsystems else [count]
    # Ways to share at most `max_atoms` atoms among k elements, each with one at least.
    total = sum(comb(count, k) * comb(max_atoms, k) for k in sizes)
    if total > MOST_COMPOSITIONS:
        raise UserError(
            f"A system of {count} elements has some {total:,} compositions of up to {max_atoms} "
            "atoms; lower --max-atoms."
        )
    formulas = [
        Formula.of(dict(zip(chosen, amounts, strict=True)))
        for k in sizes
        for chosen in combinations(elements, k)
        for amounts in _coprime(k, max_atoms)
    ]
    if not formulas:
        raise UserError(f"{count} elements need cells of at least {count} atoms; see --max-atoms.")
    tier = dict(zip(formulas, _tiers(formulas), strict=True))

    def rank(formula: Formula) -> tuple[int, int, int, int, str]:
        own, others = type_frequency(formula, max_atoms)
        return tier[formula], -own, -others, formula.num_atoms, formula.text

    return sorted(formulas, key=rank)


def _coprime(parts: int, most: int) -> Iterator[tuple[int, ...]]:
    """Yield positive numbers without a common divisor whose sum is at most `most`."""

    def extend(start: tuple[int, ...], left: int) -> Iterator[tuple[int, ...]]:
        missing = parts - len(start)
        if not missing:
            if gcd(*start) == 1:
                yield start
            return
        for amount in range(1, left - missing + 2):
            yield from extend((*start, amount), left - amount)

    yield from extend((), most)


def _tiers(formulas: Sequence[Formula]) -> list[int]:
    """Find the first of OXIDATION_STATES by which SMACT accepts each; their number if none does."""
    from crysmetrics.metrics.oxidation import valid_compositions

    counts = np.zeros((len(formulas), MAX_ATOMIC_NUMBER + 1), dtype=np.int64)
    for row, formula in zip(counts, formulas, strict=True):
        row[list(formula.elements)] = formula.amounts
    tiers = np.full(len(formulas), len(OXIDATION_STATES))
    for tier, states in reversed(list(enumerate(OXIDATION_STATES))):
        tiers[valid_compositions(counts, states)] = tier
    return [int(tier) for tier in tiers]
