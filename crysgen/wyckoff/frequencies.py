"""How often real crystals have an element of a kind on a Wyckoff position.

Counted are the orbits of the known structures of the shipped library, all of them from the training
data, by space group, letter and whether the element is the most electronegative of the formula.
Positions that few crystals have lean on those of all groups with as many free coordinates and as
high a site symmetry.

Run as a program it makes the table anew: `python -m crysgen.wyckoff.frequencies build`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from functools import cache
from importlib.resources import files
from math import log
from pathlib import Path

from crysgen.compositions.formulas import Formula
from crysgen.wyckoff.fillings import Score
from crysmetrics.io.atomic import atomic_file
from crysmetrics.space_groups.groups import SpaceGroup, WyckoffPosition, space_group

TABLE = "frequencies.json"
"""Name of the table."""
ANION, OTHER = 0, 1
"""Kinds of elements: the most electronegative of a formula of several, and all others."""

_PRIOR = 4.0
"""Number of orbits that those of other groups weigh as."""
_SYMPREC = 0.01
"""Å within which the symmetry of the library's cells, which are symmetric already, is found."""


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
    text = files("crysgen.wyckoff").joinpath(TABLE).read_text(encoding="utf-8")
    groups: dict[str, dict[str, list[int]]] = json.loads(text)["groups"]
    return {int(number): letters for number, letters in groups.items()}


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
            found = moyopy.MoyoDataset(cell, symprec=_SYMPREC)
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
    lines = [
        f'  "{number}": {json.dumps(dict(sorted(table[number].items())))}'
        for number in sorted(table)
    ]
    head = {
        "made_by": "python -m crysgen.wyckoff.frequencies build",
        "source": "training part of Materials Project, OQMD, Alexandria (CC BY 4.0) and JARVIS",
        "structures": total,
    }
    text = json.dumps(head, indent=1).removesuffix("\n}")
    with atomic_file(path) as temporary:
        temporary.write_text(
            text + ',\n "groups": {\n' + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8"
        )
    return total


def main() -> None:
    """Make the table of how often Wyckoff positions are taken."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build", help="from the shipped library")
    default = Path(str(files("crysgen.wyckoff"))) / TABLE
    command.add_argument("-o", "--output", type=Path, default=default)
    arguments = parser.parse_args()
    print(f"{build(arguments.output):,} crystals counted in {arguments.output}")


if __name__ == "__main__":
    main()
