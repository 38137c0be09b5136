"""Make the table of Wyckoff positions from moyo's: `python -m crysmetrics.space_groups.build`.

moyo gives positions of the sites of a crystal alone. So crystals are made that have the group and
a site on each of its positions: points that some of the operations leave where they are.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.atomic import atomic_file
from crysmetrics.space_group_settings import operation_triplets, setting_of
from crysmetrics.space_groups.groups import (
    GRID,
    TABLE,
    WyckoffPosition,
    generated,
    read_position,
)

_GENERAL = (1, 2)
"""Atomic numbers of two orbits on the general position, which have the symmetry of the group."""
_SPECIAL = 3
_ASKED = 6
"""Number of times that moyo is asked about orbits that seem to lie on the same position."""
_TRIALS = 2000
"""Number of points that are tried for a group; 400 miss one of group 226, say."""


def positions_of(number: int, seed: int = 0) -> tuple[int, list[WyckoffPosition]]:
    """List the Wyckoff positions of a space group as moyo has them, in the standard setting.

    Args:
        number: 1 to 230.
        seed: of the points that are tried.

    Returns:
        The Hall number of the setting, and the positions in the order of letters.
    """
    import moyopy

    rng = np.random.default_rng(seed + number)
    operations = moyopy.operations_from_number(number)
    rotations = np.array(operations.rotations, dtype=np.float64)
    shifts = np.array(operations.translations)
    lattice = _generic_lattice(rotations, rng)
    frame = [rotations @ rng.random(3) + shifts for _ in _GENERAL]
    numbers = [z for z in _GENERAL for _ in range(len(shifts))]
    found: dict[str, WyckoffPosition] = {}
    asked: Counter[str] = Counter()
    halls: set[int] = set()
    axes, origin = np.eye(3), np.zeros(3)
    for trial in range(_TRIALS):
        orbit = _distinct(rotations @ _fixed_point(rotations, shifts, rng, trial % 4) + shifts)
        # moyo mostly chooses the same one of the origins and axes that are alike, not always.
        moved = orbit @ axes.T + origin
        known = [letter for letter, position in found.items() if _is_on(moved, position)]
        if any(asked[letter] >= _ASKED for letter in known):
            continue
        asked.update(known)
        cell = moyopy.Cell(
            lattice.tolist(),
            np.concatenate([*frame, orbit]).tolist(),
            numbers + [_SPECIAL] * len(orbit),
        )
        try:
            dataset = moyopy.MoyoDataset(cell, symprec=1e-5)
        except ValueError:  # atoms by chance too close to each other
            continue
        if dataset.number != number:
            continue
        site = dataset.std_cell.numbers.index(_SPECIAL)
        position = dataset.normalizer_wyckoff_positions().wyckoffs[site]
        text = f"{position.letter} {position.site_symmetry} {position.coordinates}"
        setting = setting_of(dataset.hall_number)
        moves = np.rint(setting.translations * GRID).astype(np.int64)
        found[position.letter] = read_position(text, setting.rotations, moves)
        halls.add(dataset.hall_number)
        axes = np.linalg.inv(np.array(dataset.std_linear))
        origin = -axes @ np.array(dataset.std_origin_shift)
    (hall,) = halls
    order = sorted(found, key=lambda letter: (letter == "A", letter))
    return hall, [found[letter] for letter in order]


def _is_on(orbit: NDArray[np.float64], position: WyckoffPosition) -> bool:
    """Tell whether an orbit is one of a position."""
    if len(orbit) != position.multiplicity:
        return False
    linear = position.linear[0].astype(np.float64)
    away = np.eye(3) - linear @ np.linalg.pinv(linear)
    cells = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    steps = (orbit - position.shifts[0] / GRID)[:, None] + cells
    return bool((np.abs(steps @ away.T).max(axis=2) < 1e-6).any())


def _generic_lattice(
    rotations: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a lattice (rows in Å) that has the symmetry of the rotations and no more."""
    vectors = 12 * (np.eye(3) + 0.25 * rng.normal(size=(3, 3)))
    gram = np.einsum("mji,jk,mkl->il", rotations, vectors @ vectors.T, rotations) / len(rotations)
    return np.linalg.cholesky(gram)


def _fixed_point(
    rotations: NDArray[np.float64],
    shifts: NDArray[np.float64],
    rng: np.random.Generator,
    number: int,
) -> NDArray[np.float64]:
    """Draw a point that some operations leave where it is: `number` of them and their products."""
    point = rng.random(3)
    rows, values = np.zeros((0, 3)), np.zeros(0)
    cells = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
    for g in rng.permutation(len(shifts)).tolist():
        if len(rows) == 3 * number:
            break
        a = np.concatenate([rows, rotations[g] - np.eye(3)])
        b = np.concatenate([np.tile(values, (27, 1)), -shifts[g] - rng.permutation(cells)], axis=1)
        moved = point - (point @ a.T - b) @ np.linalg.pinv(a).T
        exact = np.flatnonzero(np.abs(moved @ a.T - b).max(axis=1) < 1e-9)
        if len(exact):
            point, rows, values = moved[exact[0]], a, b[exact[0]]
    return point


def _distinct(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep one of the points that differ by lattice vectors."""
    kept: list[NDArray[np.float64]] = []
    for point in points:
        steps = np.array(kept).reshape(-1, 3) - point
        if not (np.abs(steps - np.round(steps)).max(axis=1) < 1e-6).any():
            kept.append(point)
    return np.array(kept)


def generators_of(hall_number: int) -> list[str]:
    """Choose operations of a setting of which all others are products, as `-x,y,z+1/2`."""
    texts = [text.replace(" ", "") for text in operation_triplets(hall_number)]
    chosen: list[str] = []
    count = 1
    for text in texts:
        more = len(generated([*chosen, text])[0])
        if more > count:
            chosen, count = [*chosen, text], more
        if count == len(texts):
            break
    return chosen


def write_table(path: Path) -> int:
    """Write the table, a line for each group; returns the number of positions."""
    lines, total = [], 0
    for number in range(1, 231):
        print(f"{number} of 230", end="\r")
        hall, positions = positions_of(number)
        texts = [f"{p.letter} {p.site_symmetry} {p.coordinates}" for p in positions]
        entry = {
            "hall_number": hall,
            "symbol": setting_of(hall).symbol,
            "generators": generators_of(hall),
            "positions": texts,
        }
        lines.append(f'  "{number}": {json.dumps(entry)}')
        total += len(positions)
    head = ' "made_by": "python -m crysmetrics.space_groups.build",\n "groups": {\n'
    with atomic_file(path) as temporary:
        temporary.write_text("{\n" + head + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")
    return total


def main() -> None:
    """Make the table of Wyckoff positions of all space groups."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(str(files("crysmetrics.space_groups"))) / TABLE
    parser.add_argument("-o", "--output", type=Path, default=default)
    output = parser.parse_args().output
    print(f"{write_table(output):,} Wyckoff positions in {output}")


if __name__ == "__main__":
    main()
