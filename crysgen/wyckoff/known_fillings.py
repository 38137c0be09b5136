"""How known crystals fill the Wyckoff positions of their space groups, by numbers of atoms.

Positions of several elements depend on each other: spinels have 8a, 16d and 32e together. So
fillings are counted whole, by space group and the numbers of atoms of the elements in the primitive
cell, whichever element has which number.

Run as a program it makes the table anew: `python -m crysgen.wyckoff.known_fillings build`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crysgen.wyckoff.fillings import Filling
from crysgen.wyckoff.tables import SYMPREC, build_command, read_table, write_table
from crysmetrics.progress import task

if TYPE_CHECKING:
    from crysmetrics.space_groups.assignment import OrbitCrystal

TABLE = "known_fillings.json"
"""Name of the table."""


def count_known(filling: Filling) -> int:
    """Count the known crystals that fill the same positions with as many atoms of each element."""
    key, name = name_of(filling)
    return _table().get(key, {}).get(name, 0)


def name_of(filling: Filling) -> tuple[str, str]:
    """Name a filling as the table does: `227 2-4-8` and `a d e` of spinel."""
    letters: dict[int, list[str]] = {}
    atoms: Counter[int] = Counter()
    for element, position in filling.orbits:
        letters.setdefault(element, []).append(position.letter)
        atoms[element] += position.multiplicity // filling.space_group.centring
    return _names(filling.space_group.number, [(atoms[z], letters[z]) for z in letters])


def _names(number: int, species: Iterable[tuple[int, list[str]]]) -> tuple[str, str]:
    """Name group and numbers of atoms, as `227 2-4-8`, and the positions, as `a d e`."""
    ordered = sorted((count, "".join(sorted(letters))) for count, letters in species)
    counts = "-".join(str(count) for count, _ in ordered)
    return f"{number} {counts}", " ".join(letters for _, letters in ordered)


@cache
def _table() -> dict[str, dict[str, int]]:
    """Read the table: group and numbers of atoms -> positions -> number of crystals."""
    return read_table(TABLE, "fillings")


# --- making the table ------------------------------------------------------------------------


def count_fillings() -> tuple[dict[str, Counter[str]], int]:
    """Count the fillings of the shipped library's crystals, and the crystals.

    Crystals of one prototype and space group fill the same positions, so that one of them is looked
    at for all.
    """
    from crysgen.retrieval.library.entries import load_entries
    from crysgen.retrieval.library.library import shipped_library
    from crysmetrics.space_groups.assignment import assign_orbits
    from crysmetrics.symmetry import Cell

    entries = load_entries(shipped_library())
    prototype = np.full(len(entries), -1)
    # Backwards, so that the first match of an entry is the one that stays.
    prototype[entries.match_entry[::-1]] = entries.match_representative[::-1]
    alike: dict[tuple[int, int, int], list[int]] = {}
    for i, (kind, group) in enumerate(zip(prototype, entries.space_groups, strict=True)):
        alike.setdefault((int(kind), int(group), i if kind < 0 else 0), []).append(i)
    table: dict[str, Counter[str]] = {}
    total = 0
    with task("Wyckoff positions of known crystals", len(alike)) as advance:
        for members in alike.values():
            advance(1)
            i = members[0]
            numbers = np.repeat(entries.species(i), entries.counts(i))
            cell = Cell(entries.lattices[i].astype(float), entries.frac(i), numbers)
            try:
                found = assign_orbits(cell, SYMPREC)
            except ValueError:  # no symmetry is found in a few flat cells
                continue
            key, name = _names(found.space_group.number, _species(found))
            table.setdefault(key, Counter())[name] += len(members)
            total += len(members)
    return table, total


def _species(crystal: OrbitCrystal) -> list[tuple[int, list[str]]]:
    """List atoms in the primitive cell, and letters of positions, of each element."""
    letters: dict[int, list[str]] = {}
    atoms: Counter[int] = Counter()
    for z, position in zip(crystal.elements.tolist(), crystal.positions, strict=True):
        letters.setdefault(z, []).append(position.letter)
        atoms[z] += position.multiplicity // crystal.space_group.centring
    return [(atoms[z], letters[z]) for z in letters]


def build(path: Path) -> int:
    """Write the table, a line for each group and cell; returns the number of crystals counted."""
    table, total = count_fillings()
    keys = sorted(table, key=lambda key: (int(key.split()[0]), key))
    write_table(path, "fillings", {key: dict(table[key].most_common()) for key in keys}, total)
    return total


def main() -> None:
    """Make the table of how known crystals fill Wyckoff positions."""
    build_command("Make the table of how known crystals fill Wyckoff positions.", TABLE, build)


if __name__ == "__main__":
    main()
