"""How often real crystals have an element of a kind on a Wyckoff position.

Counted are the orbits of the known structures of the shipped library, all of them from the training
data, by space group, letter and whether the element is the most electronegative of the formula.
Positions that few crystals have lean on those of all groups with as many free coordinates and as
high a site symmetry.

Run as a program it makes the table anew: `python -m crysgen.wyckoff.frequencies build`.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from math import log
from pathlib import Path

from crysgen.compositions.formulas import Formula
from crysgen.wyckoff.fillings import Score
from crysgen.wyckoff.tables import SYMPREC, build_command, read_table, write_table
from crysmetrics.space_groups.groups import SpaceGroup, WyckoffPosition, space_group

TABLE = "frequencies.json"
"""Name of the table."""
ANION, OTHER = 0, 1
"""Kinds of elements: the most electronegative of a formula of several, and all others."""

_PRIOR = 4.0
"""Number of orbits that those of other groups weigh as."""


def kind_of(element: int, formula: Formula) -> int:
    """Classify an element of a formula as `ANION` or `OTHER`."""
    return ANION if len(formula.elements) > 1 and element == formula.elements[-1] else OTHER


def orbit_score(group: SpaceGroup, formula: Formula) -> Score:
    """Make the score of fillings of a group: log of the share of orbits that lie on a position.

    Args:
        group: whose positions are filled.
        formula: decides which element is the most electronegative.
    """
    shares = {kind: _shares(group, kind) for kind in (ANION, OTHER)}

    def score(element: int, position: WyckoffPosition) -> float:
        return shares[kind_of(element, formula)][position.letter]

    return score


def _shares(group: SpaceGroup, kind: int) -> dict[str, float]:
    """Return the logarithm of the share of each position of a group, by letter."""
    counted = _table().get(group.number, {})
    general = group.positions[-1].multiplicity
    everywhere = _by_site(kind)
    expected = {p.letter: everywhere[_site(p, general)] + 0.5 for p in group.positions}
    # Sites of one kind share what crystals of all groups have of that kind.
    alike = Counter(_site(p, general) for p in group.positions)
    expected = {p.letter: expected[p.letter] / alike[_site(p, general)] for p in group.positions}
    whole = sum(expected.values())
    own = {letter: counts[kind] for letter, counts in counted.items()}
    total = sum(own.values()) + _PRIOR
    return {
        letter: log((own.get(letter, 0) + _PRIOR * share / whole) / total)
        for letter, share in expected.items()
    }


def _site(position: WyckoffPosition, general: int) -> tuple[int, int]:
    """Describe a position of any group: free coordinates, and order of the site symmetry."""
    return len(position.free), general // position.multiplicity


@cache
def _by_site(kind: int) -> Counter[tuple[int, int]]:
    """Count the orbits of all groups by what `_site` says of them."""
    found: Counter[tuple[int, int]] = Counter()
    for number, letters in _table().items():
        group = space_group(number)
        general = group.positions[-1].multiplicity
        for position in group.positions:
            if position.letter in letters:
                found[_site(position, general)] += letters[position.letter][kind]
    return found


@cache
def _table() -> dict[int, dict[str, list[int]]]:
    """Read the table: space group -> letter -> orbits of anions and of others."""
    return {int(number): letters for number, letters in read_table(TABLE, "groups").items()}


# --- making the table ------------------------------------------------------------------------


def count_orbits() -> tuple[dict[int, dict[str, list[int]]], int]:
    """Count the orbits of the shipped library's crystals; returns the table and their number."""
    import moyopy
    import numpy as np

    from crysgen.retrieval.library.entries import load_entries
    from crysgen.retrieval.library.library import shipped_library

    entries = load_entries(shipped_library())
    table: dict[int, dict[str, list[int]]] = {}
    total = 0
    for i in range(len(entries)):
        numbers = np.repeat(entries.species(i), entries.counts(i))
        lattice = entries.lattices[i].astype(float)
        cell = moyopy.Cell(lattice.tolist(), entries.frac(i).tolist(), numbers.tolist())
        try:
            found = moyopy.MoyoDataset(cell, symprec=SYMPREC)
        except ValueError:  # no symmetry is found in a few flat cells
            continue
        formula = Formula.of_atoms(numbers)
        for atom in sorted(set(found.orbits)):
            letters = table.setdefault(int(found.number), {})
            counts = letters.setdefault(found.wyckoffs[atom], [0, 0])
            counts[kind_of(int(numbers[atom]), formula)] += 1
        total += 1
    return table, total


def build(path: Path) -> int:
    """Write the table, a line for each space group; returns the number of crystals counted."""
    table, total = count_orbits()
    rows = {str(number): dict(sorted(table[number].items())) for number in sorted(table)}
    write_table(path, "groups", rows, total)
    return total


def main() -> None:
    """Make the table of how often Wyckoff positions are taken."""
    build_command("Make the table of how often Wyckoff positions are taken.", TABLE, build)


if __name__ == "__main__":
    main()
