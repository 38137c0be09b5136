"""The 230 space groups in their standard settings: operations, lattices and Wyckoff positions.

Settings are those of the International Tables (unique axis b, hexagonal axes, the second origin),
the ones in which moyo gives conventional cells. Coordinates are exact, in units of 1/24.
`crysmetrics.space_groups.build` made the table of positions from moyo's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.space_groups.lattices import PRIMITIVE_VECTORS, metric_basis

TABLE = "wyckoff_positions.json"
"""Name of the table of Wyckoff positions."""
GRID = 24
"""Translations of operations and positions are whole multiples of a cell edge divided by this."""
_IDENTITY = np.eye(3, dtype=np.int64)
_TERM = re.compile(r"([+-]?)(\d+(?:/\d+)?)?([xyz])?")
_SYSTEMS = (
    *((2, "triclinic"), (15, "monoclinic"), (74, "orthorhombic"), (142, "tetragonal")),
    *((167, "trigonal"), (194, "hexagonal"), (230, "cubic")),
)


@dataclass(frozen=True)
class WyckoffPosition:
    """One Wyckoff position of a space group, in the conventional cell.

    Attributes:
        letter: as in the International Tables; `A` for alpha, which comes after z.
        site_symmetry: oriented symbol, as `m.mm`.
        coordinates: of its first site, as `x,x,0`.
        linear: (m, 3, 3) integers: site k lies at `linear[k] @ (x, y, z) + shifts[k] / GRID`. The
            column of a coordinate that is not free is zero.
        shifts: (m, 3) integers in units of 1/GRID, within the cell.
        operations: (m,) index of an operation that takes the first site to each.
    """

    letter: str
    site_symmetry: str
    coordinates: str
    linear: NDArray[np.int64]
    shifts: NDArray[np.int64]
    operations: NDArray[np.int64]

    @property
    def multiplicity(self) -> int:
        """Number of sites in the conventional cell."""
        return len(self.linear)

    @cached_property
    def free(self) -> tuple[int, ...]:
        """Which of x, y and z are free: indices of columns."""
        return tuple(np.flatnonzero(self.linear[0].any(axis=0)).tolist())

    @cached_property
    def inverse(self) -> NDArray[np.float64]:
        """(3, 3) map of steps from the first site's origin to x, y and z, by least squares."""
        return np.asarray(np.linalg.pinv(self.linear[0].astype(np.float64)), dtype=np.float64)

    @property
    def name(self) -> str:
        """Multiplicity and letter, as `4f`."""
        return f"{self.multiplicity}{self.letter}"

    def sites(self, parameters: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Place the sites of an orbit.

        Args:
            parameters: values of the free coordinates, in the order of x, y and z.

        Returns:
            (m, 3) fractional coordinates in [0, 1).

        Raises:
            ValueError: if their number is not that of the free coordinates.
        """
        if len(parameters) != len(self.free):
            raise ValueError(f"{self.name} has {len(self.free)} free coordinates.")
        point = np.zeros(3)
        point[list(self.free)] = parameters
        frac = self.linear @ point + self.shifts / GRID
        return frac - np.floor(frac)


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """One space group in its standard setting.

    Attributes:
        number: 1 to 230.
        hall_number: 1 to 530, of the setting.
        symbol: short Hermann-Mauguin symbol, as `P4_2/mnm`.
        rotations: (m, 3, 3) whole numbers, on columns of fractional coordinates of the conventional
            cell; those of all centring vectors.
        translations: (m, 3) of the same operations.
        positions: its Wyckoff positions from `a` on; the general one comes last.
    """

    number: int
    hall_number: int
    symbol: str
    rotations: NDArray[np.int64]
    translations: NDArray[np.float64]
    positions: tuple[WyckoffPosition, ...]

    @property
    def crystal_system(self) -> str:
        """One of seven, as `tetragonal`."""
        return next(name for last, name in _SYSTEMS if self.number <= last)

    @property
    def centring(self) -> int:
        """Lattice points in the conventional cell: 1, 2, 3 or 4."""
        return {"P": 1, "F": 4, "R": 3}.get(self.symbol[0], 2)

    @property
    def primitive_basis(self) -> NDArray[np.float64]:
        """(3, 3) vectors of a primitive cell (rows) in terms of those of the conventional one."""
        return PRIMITIVE_VECTORS[self.symbol[0]]

    @cached_property
    def lattice_basis(self) -> NDArray[np.float64]:
        """(d, 3, 3) basis of the metric tensors of its lattices; see `lattices.metric_basis`."""
        return metric_basis(self.rotations)

    def position(self, letter: str) -> WyckoffPosition:
        """Find a position by its letter.

        Raises:
            KeyError: if there is none.
        """
        return {p.letter: p for p in self.positions}[letter]


@lru_cache(maxsize=230)
def space_group(number: int) -> SpaceGroup:
    """Look up a space group by its number, 1 to 230.

    Raises:
        KeyError: if there is no such number.
    """
    entry = _table()[str(number)]
    rotations, moves = generated(entry["generators"])
    made = [read_position(text, rotations, moves) for text in entry["positions"]]
    return SpaceGroup(
        number, entry["hall_number"], entry["symbol"], rotations, moves / GRID, tuple(made)
    )


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = files("crysmetrics.space_groups").joinpath(TABLE).read_text(encoding="utf-8")
    groups: dict[str, dict[str, Any]] = json.loads(text)["groups"]
    return groups


def generated(generators: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Multiply operations, such as `-y+1/2,x+1/2,z+1/2`, until nothing new comes.

    Returns:
        Rotations (m, 3, 3) and translations (m, 3) in units of 1/GRID, within the cell.
    """
    given = [_affine(text) for text in generators]
    found = {_IDENTITY.tobytes() + bytes(24): (_IDENTITY, np.zeros(3, dtype=np.int64))}
    fresh = list(found.values())
    while fresh:
        before, fresh = fresh, []
        for rotation, move in before:
            for turn, step in given:
                both = turn @ rotation, (turn @ move + step) % GRID
                key = both[0].tobytes() + both[1].tobytes()
                if key not in found:
                    found[key] = both
                    fresh.append(both)
    rotations, moves = zip(*found.values(), strict=True)
    return np.array(rotations), np.array(moves)


def read_position(
    text: str, rotations: NDArray[np.int64], moves: NDArray[np.int64]
) -> WyckoffPosition:
    """Make a position from its letter, site symmetry and first site, such as `f m.2m x,x,0`.

    Args:
        text: as in the table.
        rotations: (g, 3, 3) of the group.
        moves: (g, 3) translations in units of 1/GRID.
    """
    letter, symmetry, coordinates = text.split(" ")
    linear, shift = _affine(coordinates)
    images = rotations @ linear
    shifts = (rotations @ shift + moves) % GRID
    # Operations that leave all sites of a position where they are give the same affine map twice.
    keys = np.concatenate([images.reshape(-1, 9), shifts], axis=1)
    first = np.sort(np.unique(keys, axis=0, return_index=True)[1])
    return WyckoffPosition(letter, symmetry, coordinates, images[first], shifts[first], first)


def _affine(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read coordinates such as `x,2x,1/4` as a matrix (3, 3) and a shift (3,) in 1/GRID."""
    linear, shift = np.zeros((3, 3), dtype=np.int64), np.zeros(3, dtype=np.int64)
    for row, part in enumerate(text.split(",")):
        for sign, digits, axis in _TERM.findall(part.replace(" ", "")):
            if not digits and not axis:
                continue
            value = Fraction(digits or "1") * (-1 if sign == "-" else 1)
            if axis:
                linear[row, "xyz".index(axis)] += int(value)
            else:
                shift[row] += int(value * GRID)
    return linear, shift
