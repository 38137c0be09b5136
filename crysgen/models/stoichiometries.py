"""Stoichiometries of training crystals: how often their elements have which numbers of atoms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor

Amounts = tuple[int, ...]
"""Numbers of atoms of the elements of a cell, the largest first."""


def count_stoichiometries(atomic_numbers: Tensor) -> dict[str, int]:
    """Count crystals (B, N) by numbers of atoms of their elements, the largest first: `3 1 1`."""
    found: Counter[str] = Counter()
    for row in atomic_numbers.tolist():
        counts = Counter(z for z in row if z)
        found[" ".join(map(str, sorted(counts.values(), reverse=True)))] += 1
    return dict(sorted(found.items()))


def check_stoichiometries(formulas: Mapping[str, int]) -> None:
    """Refuse what `count_stoichiometries` does not return.

    Raises:
        ValueError: with the first that is not numbers of atoms and a count.
    """
    for formula, count in formulas.items():
        parts = formula.split()
        if not parts or not all(p.isdecimal() and 0 < int(p) < 1e4 for p in parts) or count < 1:
            raise ValueError(f"formulas must be numbers of atoms such as '3 1 1', not {formula!r}")


def parsed(formulas: Mapping[str, int]) -> dict[Amounts, int]:
    """Read counts by text as counts by numbers of atoms."""
    return {tuple(map(int, text.split())): count for text, count in formulas.items()}


def of_size(formulas: Mapping[Amounts, int], size: int) -> dict[Amounts, int]:
    """Select stoichiometries of cells of `size` atoms, or multiples of smaller ones."""
    found = Counter({amounts: n for amounts, n in formulas.items() if sum(amounts) == size})
    if not found:
        for amounts, n in formulas.items():
            if size % sum(amounts) == 0:
                found[tuple(size // sum(amounts) * k for k in amounts)] += n
    return dict(found) or {(size,): 1}
