"""Draw likely space groups for the atoms of a cell: as often as known crystals have them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np

from crysgen.compositions.formulas import Formula
from crysgen.wyckoff.fillings import Fillings, contents_of
from crysmetrics.space_groups.groups import space_group

_PRIOR = 1.0
"""Number of crystals that the groups of all crystals weigh as, beside those of the same type."""


def draw_space_group(atomic_numbers: Sequence[int], seed: int) -> int:
    """Draw a space group for the atoms of a primitive cell, among those that have places for them.

    As frequent as among known primitive cells with the same numbers of atoms of their elements, of
    the training data alone, and a little as among all.

    Args:
        atomic_numbers: of the cell; without any, the group is drawn among those of all crystals.
        seed: of the draw.
    """
    atoms = Formula.of_atoms(np.array(atomic_numbers))
    own, everything = _counts(tuple(sorted(atoms.amounts)))
    total = sum(everything.values())
    numbers = np.array(sorted(everything))
    weights = np.array([own[n] + _PRIOR * everything[n] / total for n in numbers.tolist()])
    rng = np.random.default_rng(seed)
    order = rng.choice(numbers, size=len(numbers), replace=False, p=weights / weights.sum())
    for number in order.tolist():
        group = space_group(number)
        if not len(atomic_numbers) or Fillings(group, contents_of(atoms, 1, group)).count:
            return int(number)
    return 1


@cache
def _counts(amounts: tuple[int, ...]) -> tuple[Counter[int], Counter[int]]:
    """Count the groups of known crystals with these numbers of atoms, and of all."""
    by_type = _by_type()
    everything: Counter[int] = Counter()
    for found in by_type.values():
        everything.update(found)
    return by_type.get(amounts, Counter()), everything


@cache
def _by_type() -> dict[tuple[int, ...], Counter[int]]:
    from crysgen.retrieval.library.entries import load_entries
    from crysgen.retrieval.library.library import shipped_library

    entries = load_entries(shipped_library())
    found: dict[tuple[int, ...], Counter[int]] = {}
    for counts, members in entries.by_counts.items():
        numbers = entries.space_groups[members].tolist()
        found.setdefault(tuple(sorted(counts)), Counter()).update(numbers)
    return found
