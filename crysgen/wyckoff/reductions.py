"""How the reduced cells of real crystals lie in the conventional ones, by Bravais lattice.

Models of cells learn from Niggli cells, whose vectors are sorted by length: the axis of a
tetragonal crystal may be the first or the last of them. Which it is follows from the metric, and a
metric that is to be drawn has none yet. So it is drawn as often as real crystals have it.

Run as a program it makes the table anew: `python -m crysgen.wyckoff.reductions build`.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysgen.wyckoff.tables import SYMPREC, build_command, read_table, write_table
from crysmetrics.space_groups.groups import SpaceGroup, space_group

TABLE = "reductions.json"
"""Name of the table."""

_COVERED = 0.995
"""Share of the crystals of a Bravais lattice whose reductions are kept, the most frequent first."""
_HOLOHEDRIES = {"triclinic": 2, "monoclinic": 10, "orthorhombic": 47, "tetragonal": 123,
                "hexagonal": 191, "trigonal": 191, "cubic": 221}  # fmt: skip
_RHOMBOHEDRAL = 166


def bravais_lattice(group: SpaceGroup) -> str:
    """Name the lattice of a space group by crystal family and centring, as `tetragonal I`."""
    system = group.crystal_system
    family = "hexagonal" if system == "trigonal" else system
    return f"{family} {group.symbol[0]}"


def draw_basis(group: SpaceGroup, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw vectors (3, 3) of a reduced primitive cell (rows) in terms of the conventional ones.

    As often as crystals with the lattice of this group have it; the primitive cell itself for a
    lattice that no known crystal has.
    """
    found = _table().get(bravais_lattice(group))
    if found is None:
        return group.primitive_basis
    transforms, counts = found
    chosen = rng.choice(len(counts), p=counts / counts.sum())
    basis: NDArray[np.float64] = transforms[chosen] @ group.primitive_basis
    return basis


@cache
def _table() -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Read the table: Bravais lattice -> transforms (r, 3, 3), and how often they are (r,)."""
    lattices: dict[str, list[list[int]]] = read_table(TABLE, "lattices")
    return {
        name: (
            np.array([row[:9] for row in rows], dtype=np.float64).reshape(-1, 3, 3),
            np.array([row[9] for row in rows], dtype=np.float64),
        )
        for name, rows in lattices.items()
    }


# --- making the table ------------------------------------------------------------------------


def count_reductions() -> tuple[dict[str, Counter[tuple[int, ...]]], int]:
    """Count how Niggli cells of the shipped library lie in conventional ones, and the crystals."""
    from crysgen.diffusion.lattice import niggli_reduce
    from crysgen.retrieval.library.entries import load_entries
    from crysgen.retrieval.library.library import shipped_library
    from crysmetrics.symmetry import Cell, conventional_cell

    entries = load_entries(shipped_library())
    table: dict[str, Counter[tuple[int, ...]]] = {}
    total = 0
    for i in range(len(entries)):
        numbers = np.repeat(entries.species(i), entries.counts(i))
        cell = Cell(entries.lattices[i].astype(float), entries.frac(i), numbers)
        try:
            found = conventional_cell(cell, SYMPREC)
            group = space_group(found.space_group)
            transforms = niggli_reduce((group.primitive_basis @ found.cell.lattice)[None])[1]
        except ValueError:  # no symmetry is found in a few flat cells
            continue
        alike = transforms[0] @ np.rint(_holohedry(group)).astype(np.int64)
        # Every one comes with its negative; conventional cells have to be right-handed.
        alike = alike[np.linalg.det(alike) > 0]
        key = max(tuple(row) for row in alike.reshape(-1, 9).tolist())
        table.setdefault(bravais_lattice(group), Counter())[key] += 1
        total += 1
    return table, total


def _holohedry(group: SpaceGroup) -> NDArray[np.float64]:
    """List the transforms (g, 3, 3) of a primitive cell's rows that change no lattice of a group.

    Reductions that differ by one of them are the same: they name the axes otherwise.
    """
    whole = _HOLOHEDRIES[group.crystal_system]
    if group.symbol[0] == "R":
        whole = _RHOMBOHEDRAL
    basis = group.primitive_basis
    turned = np.swapaxes(space_group(whole).rotations, 1, 2)
    unique = np.unique(np.rint(turned).reshape(-1, 9), axis=0).reshape(-1, 3, 3)
    return basis @ unique @ np.linalg.inv(basis)


def build(path: Path) -> int:
    """Write the table, a line for each Bravais lattice; returns the number of crystals counted."""
    table, total = count_reductions()
    lattices: dict[str, list[list[int]]] = {}
    for name in sorted(table):
        rows, most, kept = table[name].most_common(), sum(table[name].values()), 0
        chosen = []
        for transform, times in rows:
            if kept >= _COVERED * most:
                break
            chosen.append([*transform, times])
            kept += times
        lattices[name] = chosen
    columns = (
        "nine whole numbers P, rows of the Niggli cell in terms of a primitive one, and the number "
        "of crystals"
    )
    write_table(path, "lattices", lattices, total, rows=columns)
    return total


def main() -> None:
    """Make the table of how reduced cells lie in conventional ones."""
    build_command("Make the table of how reduced cells lie in conventional ones.", TABLE, build)


if __name__ == "__main__":
    main()
