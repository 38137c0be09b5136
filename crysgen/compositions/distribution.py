"""Compositions as real compounds have them, for models that must be told one.

A composition is that of a known crystal, with one element after the other exchanged, at a rate, for
one that stands in its place in other compounds: how likely that is, is what the similarity of
compounds (`crysgen.retrieval.scoring.similarity`) was trained for. Numbers of elements and of atoms
are so those of known crystals.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crysgen.compositions.formulas import Formula
from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysgen.retrieval.library.library import Library

_EXCHANGED = 0.35
"""Chance of an element to be exchanged: two thirds of the compositions are new then."""
_ATTEMPTS = 8
"""Exchanges that are tried for one whose charges balance, before the known composition is taken."""
_ELEMENTS = 119
_STATES = "smact14"
"""Oxidation states by which charges balance, of `crysmetrics`' composition validity."""


@dataclass(frozen=True)
class Drawn:
    """Compositions that were drawn.

    Attributes:
        atoms: atomic numbers of each cell, in ascending order.
        known: (B,) whether the library holds the composition.
        balanced: (B,) whether it can be charge-neutral; metals and elements count as such.
    """

    atoms: tuple[tuple[int, ...], ...]
    known: NDArray[np.bool_]
    balanced: NDArray[np.bool_]

    @property
    def num_elements(self) -> NDArray[np.int64]:
        """(B,) numbers of different elements."""
        return np.array([len(set(numbers)) for numbers in self.atoms], dtype=np.int64)

    def summary(self) -> str:
        """Say in a sentence what was drawn."""
        counts = Counter(self.num_elements.tolist())
        shares = ", ".join(f"{n}: {c / len(self.atoms):.0%}" for n, c in sorted(counts.items()))
        return (
            f"{len(set(self.atoms)):,} compositions, {1 - self.known.mean():.0%} of them new, "
            f"{self.balanced.mean():.0%} charge-balanced; by number of elements {shares}."
        )


def draw_compositions(
    library: Library,
    count: int,
    seed: int = 0,
    max_atoms: int = 20,
    num_atoms: int | None = None,
    exchanged: float = _EXCHANGED,
    space_group: int | None = None,
) -> Drawn:
    """Draw cells' compositions; equal for equal library and seed.

    An exchange never makes a composition that can't be charge-neutral of one that can.

    Args:
        library: of known crystals.
        count: of compositions.
        seed: of all random numbers.
        max_atoms: of a cell.
        num_atoms: of each cell; None for what known crystals have.
        exchanged: chance of each element to be exchanged; 0 draws known compositions alone.
        space_group: whose positions have a place for the atoms; compositions are those of its
            known crystals, if there are any. None for any.

    Raises:
        UserError: if no known crystal has so many atoms, or none has a place in the group.
    """
    entries = library.entries
    sizes = entries.num_atoms
    rows = np.flatnonzero(sizes <= max_atoms if num_atoms is None else sizes == num_atoms)
    if not len(rows):
        raise UserError("No known crystal has so many atoms in its primitive cell.")
    if space_group is not None:
        rows = _within_group(library, rows, space_group)
    rng = np.random.default_rng(seed)
    offsets = entries.species_offsets
    possible = np.unique(entries.elements).astype(np.int64)
    cells = []
    for row in rng.choice(rows, count).tolist():
        place = slice(offsets[row], offsets[row + 1])
        elements = entries.elements[place].astype(np.int64)
        amounts = tuple(entries.species_counts[place].tolist())
        cells.append(_exchange(library, elements, amounts, possible, exchanged, rng))
    atoms = tuple(
        tuple(sorted(z for z, n in zip(e.tolist(), a, strict=True) for _ in range(n)))
        for e, a in cells
    )
    held = _formulas(library)
    known = np.array([_formula(*cell) in held for cell in cells])
    return Drawn(atoms, known, _balanced(cells))


def _within_group(library: Library, rows: NDArray[np.int64], space_group: int) -> NDArray[np.int64]:
    """Select known crystals of a space group; without any, those whose atoms have a place in it.

    Raises:
        UserError: if there are none either.
    """
    from crysgen.wyckoff.fillings import Fillings
    from crysmetrics.space_groups.groups import space_group as look_up

    entries, group = library.entries, look_up(space_group)
    own: NDArray[np.int64] = rows[entries.space_groups[rows] == space_group]
    if len(own):
        return own
    fits: dict[tuple[int, ...], bool] = {}
    kept = []
    for row in rows.tolist():
        place = slice(entries.species_offsets[row], entries.species_offsets[row + 1])
        amounts = tuple(entries.species_counts[place].tolist())
        if amounts not in fits:
            elements = tuple(range(1, len(amounts) + 1))
            contents = Formula(elements, tuple(n * group.centring for n in amounts))
            fits[amounts] = Fillings(group, contents).count > 0
        if fits[amounts]:
            kept.append(row)
    if not kept:
        raise UserError(
            f"No known composition of so few atoms has a place in space group {space_group} "
            f"({group.symbol}); --max-atoms allows more."
        )
    return np.array(kept, dtype=np.int64)


_Formula = tuple[tuple[int, int], ...]


def _formula(elements: NDArray[np.integer], amounts: Sequence[int]) -> _Formula:
    """Reduce a cell's composition to a formula: elements and amounts, sorted."""
    units = math.gcd(*amounts)
    pairs = zip(elements.tolist(), amounts, strict=True)
    return tuple(sorted((z, n // units) for z, n in pairs))


def _formulas(library: Library) -> set[_Formula]:
    """List the formulas of all crystals of a library."""
    entries = library.entries
    amounts, ends = entries.species_counts.tolist(), entries.species_offsets.tolist()
    return {
        _formula(entries.elements[start:end], amounts[start:end]) for start, end in pairwise(ends)
    }


def _exchange(
    library: Library,
    elements: NDArray[np.int64],
    amounts: tuple[int, ...],
    possible: NDArray[np.int64],
    rate: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Exchange some elements (k,) of a compound with the given amounts."""
    wanted = rng.random(len(elements)) < rate
    if not wanted.any():
        return elements, amounts
    neutral = bool(_balanced([(elements, amounts)])[0])
    for _ in range(_ATTEMPTS):
        found = elements.copy()
        for place in np.flatnonzero(wanted).tolist():
            found[place] = _other(library, found, amounts, place, possible, rng)
        if not neutral or bool(_balanced([(found, amounts)])[0]):
            return found, amounts
    return elements, amounts


def _other(
    library: Library,
    elements: NDArray[np.int64],
    amounts: tuple[int, ...],
    place: int,
    possible: NDArray[np.int64],
    rng: np.random.Generator,
) -> int:
    """Draw another element for one place of a compound, as similar compounds have it."""
    others = possible[~np.isin(possible, elements)].astype(np.int64)
    if not len(others):
        return int(elements[place])
    rows = np.repeat(elements[None], len(others) + 1, axis=0)
    rows[1:, place] = others
    points = library.similarity.metrics[0].embed(rows, amounts)  # one of several is enough here
    distances = np.square(points[1:] - points[:1]).sum(axis=(1, 2), dtype=np.float64)
    chances = np.exp(distances.min() - distances)
    return int(rng.choice(others, p=chances / chances.sum()))


def _balanced(
    cells: Sequence[tuple[NDArray[np.int64], tuple[int, ...]]],
) -> NDArray[np.bool_]:
    """Tell which compositions can be charge-neutral."""
    from crysmetrics.metrics.oxidation import valid_compositions

    counts = np.zeros((len(cells), _ELEMENTS), dtype=np.int64)
    for row, (elements, amounts) in enumerate(cells):
        np.add.at(counts[row], elements, amounts)
    return valid_compositions(counts, _STATES)
