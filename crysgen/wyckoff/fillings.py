"""All ways to fill the Wyckoff positions of a space group with the atoms of a formula.

Each element takes positions whose multiplicities add up to its number of atoms. A position without
free coordinates is one set of points, so that one orbit at most lies on it; any other takes any
number of orbits. Fillings that differ by a choice of origin or axes alone (rutile has Ti on 2a or
on 2b) count as different, as letters do.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import comb

from crysgen.compositions.formulas import Formula
from crysmetrics.console import counted
from crysmetrics.space_groups.groups import SpaceGroup, WyckoffPosition

Score = Callable[[int, WyckoffPosition], float]
"""Logarithm of how likely an element (atomic number) is to take a position; at most 0."""

_Entry = tuple[float, int, int, int, int, int, float, tuple[tuple[int, int], ...], frozenset[int]]


@dataclass(frozen=True)
class Filling:
    """One way to fill the positions of a space group.

    Attributes:
        space_group: whose positions these are.
        orbits: atomic number and position of each orbit, in the order of the formula's elements,
            each element's by letter.
        score: sum over the orbits of how likely they are.
        units: formula units in the primitive cell; 0 where no formula was asked for.
    """

    space_group: SpaceGroup
    orbits: tuple[tuple[int, WyckoffPosition], ...]
    score: float
    units: int = 0

    @property
    def num_free(self) -> int:
        """Number of free coordinates of all orbits together."""
        return sum(len(position.free) for _, position in self.orbits)

    @property
    def num_atoms(self) -> int:
        """Number of atoms in the conventional cell."""
        return sum(position.multiplicity for _, position in self.orbits)

    def positions_of(self, element: int) -> list[WyckoffPosition]:
        """List the positions that an element takes, by letter."""
        return [position for z, position in self.orbits if z == element]


class Fillings:
    """The ways to fill the positions of a space group, counted and listed.

    Args:
        space_group: whose positions are filled.
        contents: the atoms of the conventional cell.
    """

    def __init__(self, space_group: SpaceGroup, contents: Formula) -> None:
        self.space_group = space_group
        self.contents = contents
        self._pools = Counter(p.multiplicity for p in space_group.positions if not p.free)
        self._ways: dict[tuple[int, tuple[int, ...]], int] = {}

    @cached_property
    def count(self) -> int:
        """Number of ways, exact."""
        return self._count(0, tuple(self._pools.values()))

    def _count(self, k: int, left: tuple[int, ...]) -> int:
        """Count the ways to place elements from the k-th on.

        `left` are the fixed positions of each multiplicity that have not been taken.
        """
        if k == len(self.contents.elements):
            return 1
        key = (k, left)
        if key not in self._ways:
            sizes, most = tuple(self._pools), self.contents.amounts[k]
            total = 0
            for taken, atoms in _choices(sizes, left, most):
                ways = self._with_free[most - atoms]
                if not ways:
                    continue
                for n, m in zip(left, taken, strict=True):
                    ways *= comb(n, m)
                rest = tuple(n - m for n, m in zip(left, taken, strict=True))
                total += ways * self._count(k + 1, rest)
            self._ways[key] = total
        return self._ways[key]

    @cached_property
    def _with_free(self) -> list[int]:
        """Count the ways to place 0, 1, ... atoms on positions that take any number of orbits."""
        ways = [1] + [0] * max(self.contents.amounts)
        for position in self.space_group.positions:
            if position.free:
                for n in range(position.multiplicity, len(ways)):
                    ways[n] += ways[n - position.multiplicity]
        return ways

    def likeliest(self, score: Score) -> Iterator[Filling]:
        """List all ways lazily, those of the highest score first.

        Best-first search: what is still to be placed is bounded by the best that each element
        could do with all positions to itself. Equal scores come in the order of letters.

        Args:
            score: of an orbit; that of a filling is the sum.
        """
        if not self.count:
            return
        elements, amounts = self.contents.elements, self.contents.amounts
        positions = self.space_group.positions
        scores = [[min(score(z, p), 0.0) for p in positions] for z in elements]
        best = [
            _best_completions(positions, own, most)
            for own, most in zip(scores, amounts, strict=True)
        ]
        after = [sum(best[j][0][amounts[j]] for j in range(k + 1, len(best))) for k in
                 range(len(best))]  # fmt: skip
        numbers = count()
        # Negative bound, then how much is placed (deeper first), then age; element, position,
        # atoms left, score so far, orbits so far, fixed positions taken.
        start = -(best[0][0][amounts[0]] + after[0])
        heap: list[_Entry] = [
            (start, 0, next(numbers), 0, 0, amounts[0], 0.0, (), frozenset[int]())
        ]
        while heap:
            _, depth, _, k, i, rest, so_far, orbits, taken = heapq.heappop(heap)
            if rest == 0:
                k, i = k + 1, 0
                if k == len(elements):
                    yield Filling(
                        self.space_group,
                        tuple((elements[e], positions[p]) for e, p in orbits),
                        so_far,
                    )
                    continue
                if not self._count(k, self._left(taken)):
                    continue
                rest = amounts[k]
            for j in range(i, len(positions)):
                position = positions[j]
                following = j if position.free else j + 1
                after_this = rest - position.multiplicity
                if after_this < 0 or j in taken:
                    continue
                bound = best[k][following][after_this] + after[k]
                value = so_far + scores[k][j]
                if value + bound == -float("inf"):
                    continue
                more = taken if position.free else taken | {j}
                heapq.heappush(
                    heap,
                    (-(value + bound), depth - position.multiplicity, next(numbers),
                     k, following, after_this, value, (*orbits, (k, j)), more),
                )  # fmt: skip

    def _left(self, taken: frozenset[int]) -> tuple[int, ...]:
        used = Counter(self.space_group.positions[j].multiplicity for j in taken)
        return tuple(n - used[size] for size, n in self._pools.items())


def _choices(
    sizes: Sequence[int], left: Sequence[int], most: int
) -> Iterator[tuple[tuple[int, ...], int]]:
    """List how many fixed positions of each multiplicity hold at most `most` atoms, with these."""
    if not sizes:
        yield (), 0
        return
    for n in range(min(left[0], most // sizes[0]) + 1):
        for others, atoms in _choices(sizes[1:], left[1:], most - n * sizes[0]):
            yield (n, *others), atoms + n * sizes[0]


def _best_completions(
    positions: Sequence[WyckoffPosition], scores: Sequence[float], most: int
) -> list[list[float]]:
    """Find the highest score for placing 0 to `most` atoms on positions from each one on."""
    nothing = [0.0] + [-float("inf")] * most
    table = [nothing]
    for position, own in zip(reversed(positions), reversed(scores), strict=True):
        rest = table[-1]
        row = list(rest)
        for n in range(position.multiplicity, most + 1):
            source = row if position.free else rest
            row[n] = max(row[n], own + source[n - position.multiplicity])
        table.append(row)
    return table[::-1]


def contents_of(formula: Formula, units: int, space_group: SpaceGroup) -> Formula:
    """Return the atoms of the conventional cell that has `units` formulas in its primitive cell."""
    return formula.times(units * space_group.centring)


def possible_units(formula: Formula, space_group: SpaceGroup, most: int) -> list[int]:
    """List numbers of formula units of primitive cells that have a filling, up to `most`."""
    return [
        units
        for units in range(1, most + 1)
        if Fillings(space_group, contents_of(formula, units, space_group)).count
    ]


def why_impossible(
    formula: Formula, units: int, space_group: SpaceGroup, or_fewer: bool = False
) -> str:
    """Say in one sentence why a cell of `units` formulas has no filling, and which sizes have one.

    Args:
        formula: as written.
        units: formula units of the primitive cell, for which no filling exists.
        space_group: whose positions are filled.
        or_fewer: whether no smaller cell has one either.
    """
    contents = contents_of(formula, units, space_group)
    reason = _reason(contents, space_group)
    cell = f"{counted(units, 'formula unit')} of {formula}{' or fewer' * or_fewer}"
    text = f"Space group {space_group.number} ({space_group.symbol}) has no place for {cell}"
    if space_group.centring > 1:
        text += f" in its primitive cell ({contents} in the conventional one)"
    near = _nearest(formula, units, space_group)
    return f"{text}: {reason}; the nearest cells that work hold {near}."


def _reason(contents: Formula, space_group: SpaceGroup) -> str:
    from crysmetrics.io.elements import SYMBOLS

    sizes = sorted({p.multiplicity for p in space_group.positions})
    for element, atoms in zip(contents.elements, contents.amounts, strict=True):
        if not Fillings(space_group, Formula((element,), (atoms,))).count:
            shown = ", ".join(map(str, sizes))
            fixed = sorted(p.name for p in space_group.positions if not p.free)
            once = f", of which {', '.join(fixed)} can be taken once" if fixed else ""
            what = f"{counted(atoms, 'atom')} of {SYMBOLS[element]}"
            verb = "is" if atoms == 1 else "are"
            return f"{what} {verb} no sum of multiplicities ({shown}{once})"
    names = ", ".join(p.name for p in space_group.positions if not p.free)
    return f"its elements would need the same of the positions that can be taken once ({names})"


def _nearest(formula: Formula, units: int, space_group: SpaceGroup) -> str:
    """Name the nearest smaller and larger numbers of formula units that have a filling."""
    general = space_group.positions[-1].multiplicity
    # With as many formula units as the general position has sites, every element lies on it.
    most = units + general // space_group.centring
    works = possible_units(formula, space_group, most)
    smaller = [str(n) for n in works if n < units][-1:]
    larger = [str(n) for n in works if n > units][:1]
    return " or ".join(smaller + larger)
