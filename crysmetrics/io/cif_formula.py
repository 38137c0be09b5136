"""Formulas that a CIF states, and whether its atoms are that many formula units.

A formula is the one thing in a file that a lost site, a lost operation or a wrong origin
contradicts, so it is compared both ways: elements and counts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from crysmetrics.io.cif_elements import strip_quotes
from crysmetrics.io.elements import ATOMIC_NUMBERS, SYMBOLS
from crysmetrics.io.parsed import shorten

MAX_FORMULA = 2000
"""Longest formula (characters) that is looked at."""
MAX_COUNT = 1e9
"""Largest number in a formula that is taken for a number of atoms."""

FORMULA_TAGS = (
    "_chemical_formula_sum",
    "_chemical_formula_structural",
    "_chemical_formula_moiety",
)
"""Where a formula is looked for; the first that can be read is compared."""

_ROUNDING = 0.01
"""How far a formula unit's counts may be off where they are fractions (Al0.67 O)."""

_PLAIN = re.compile(r"(?:[A-Z][a-z]?\d{0,9}\s*)+$")
_PART = re.compile(r"([A-Z][a-z]?)(\d*)")
_TOKENS = re.compile(
    r"(?P<element>[A-Z][a-z]?)|(?P<number>\d+\.?\d*|\.\d+)(?P<charge>[+-])?|(?P<open>[([{])"
    r"|(?P<close>[)\]}])|(?P<next>[,·•*])|(?P<sign>[+-])|(?P<blank>[\s~]+)|(?P<bad>.)",
    re.DOTALL,
)


class Formula(NamedTuple):
    """A stated formula."""

    text: str
    counts: Mapping[int, float]
    """Atomic number -> atoms in a formula unit."""

    @property
    def readings(self) -> tuple[Mapping[int, float], ...]:
        """What the formula can mean, `counts` first; capitals (CO2) may leave more than one."""
        return _readings(self.text)


def stated_formula(find_value: Callable[[str], str | None]) -> Formula | None:
    """Return the formula that a block states, if any can be read.

    Args:
        find_value: gives a tag's value, or None.

    Raises:
        ValueError: if its formula sum is one that no crystal has.
    """
    for tag in FORMULA_TAGS:
        text = find_value(tag)
        if not text:
            continue
        try:
            formula = parse_formula(text)
        except ValueError:
            if tag == FORMULA_TAGS[0]:
                raise
            continue  # structural formulas are free text
        if formula is not None:
            return formula
    return None


def parse_formula(text: str) -> Formula | None:
    """Return a formula as it stands in a CIF, or None if it is unknown or no plain formula.

    Raises:
        ValueError: if it is one that no crystal has: too long, or with an unknown element.
    """
    bare = text.strip("'\"")
    if _PLAIN.match(bare) and len(bare) < 200:
        counts: dict[int, float] = {}
        for symbol, count in _PART.findall(bare):
            z = ATOMIC_NUMBERS.get(symbol, 0)
            counts[z] = counts.get(z, 0) + (int(count) if count else 1)
        if 0 not in counts:
            return Formula(bare, counts)
    bare = strip_quotes(text)
    if not bare or bare in "?.":
        return None
    if len(bare) > MAX_FORMULA:
        raise ValueError(f"states a formula of {len(bare)} characters")
    readings = _readings(bare)
    if not readings:
        return None
    if 0 in readings[0]:
        raise ValueError(f"states a formula with an unknown element ({shorten(bare)})")
    return Formula(bare, readings[0])


@lru_cache(maxsize=1024)
def _readings(text: str) -> tuple[dict[int, float], ...]:
    """List compositions that a formula can mean; of unknown elements only if there is no other."""
    plain = _parse_units(text)
    readings = [reading for reading in (plain, _parse_words(text)) if reading]
    if plain and "." in text:  # in a number, or between a salt and its water
        hydrate = _parse_units(text.replace(".", "·"))
        readings += [hydrate] if hydrate and hydrate.keys() == plain.keys() else []
    readings = [r for r in readings if 0 not in r] or readings[:1]
    return tuple(r for i, r in enumerate(readings) if r not in readings[:i])


def _parse_words(text: str) -> dict[int, float] | None:
    """Read the composition of elements apart from each other, in any case: NA4 CL4."""
    counts: Counter[int] = Counter()
    for word in text.split():
        match = re.match(r"([A-Za-z]{1,2})([\d.]{0,12})$", word)
        if match is None:
            return None
        try:
            number = float(match[2] or 1)
        except ValueError:
            return None
        counts[ATOMIC_NUMBERS.get(match[1].title(), 0)] += number  # type: ignore[assignment]
    return dict(counts)


def _parse_units(text: str) -> dict[int, float] | None:
    """Read a composition with brackets, hydrates, charges: Ca (S O4) (H2 O)2, 2(Na 1+), C O3 2-.

    None if it isn't one; 0 stands for an unknown element.
    """
    stack: list[list[tuple[int, float]]] = [[]]
    last: list[tuple[int, float]] = []  # what a number that comes next multiplies
    factor, starts = 1.0, True  # of the part between two commas
    is_open: list[str] = []
    parts: list[tuple[int, float]] = []
    for match in _TOKENS.finditer(text):
        kind = match.lastgroup if match["number"] is None else "number"
        if kind == "blank":
            continue
        if kind == "element":
            last = [(ATOMIC_NUMBERS.get(match[0], 0), 1.0)]
            stack[-1] += last
        elif kind == "number" and match["charge"] is None:
            value = float(match["number"]) if len(match["number"]) <= 12 else math.inf
            if starts:
                factor = value
            elif last:
                del stack[-1][-len(last) :]
                stack[-1] += [(z, n * value) for z, n in last]
                last = []
            else:
                return None
        elif kind == "open":
            stack.append([])
            is_open.append(match[0])
            last = []
        elif kind == "close":
            if not is_open or "([{".index(is_open.pop()) != ")]}".index(match[0]):
                return None
            last = stack.pop()
            stack[-1] += last
        elif kind == "next":
            if is_open:
                return None
            parts += [(z, n * factor) for z, n in stack[0]]
            stack, last, factor, starts = [[]], [], 1.0, True
            continue
        elif kind == "bad":
            return None
        starts = False
    if is_open:
        return None
    parts += [(z, n * factor) for z, n in stack[0]]
    counts: dict[int, float] = {}
    for z, n in parts:
        counts[z] = counts.get(z, 0.0) + n
    return {z: n for z, n in counts.items() if n} or None


def parse_formula_units(text: str | None) -> int | None:
    """Return the number Z of formula units in a cell, or None if it is not stated."""
    match = re.match(r"(\d{1,9})(?:\.0*)?(?:\(\d*\))?$", strip_quotes(text[:40])) if text else None
    return int(match[1]) or None if match else None


def why_not(formula: Formula, units: int | None, atoms: Mapping[int, int]) -> str | None:
    """Return the reason why these atoms of a cell are not the formula's, or None if they are.

    They may be one formula, `units` of them, or any whole number of them if `units` is None.

    Args:
        formula: as stated.
        units: the stated number Z of formula units.
        atoms: atomic number -> atoms in the cell.
    """
    if multiple_of(formula, units, atoms):
        return None
    stated, found = formula.counts, sum(atoms.values())
    missing, surplus = sorted(stated.keys() - atoms.keys()), sorted(atoms.keys() - stated.keys())
    too_many = [z for z, n in sorted(stated.items()) if not n * (units or 1) < MAX_COUNT]
    if too_many:
        return f"states a formula with more than {MAX_COUNT:.0e} atoms of {SYMBOLS[too_many[0]]}"
    total = sum(stated.values()) * (units or 1)
    reason = f"has {found} atoms where its formula states {total:g}"
    if missing:
        return f"{reason}, and none of {SYMBOLS[missing[0]]}"
    if surplus:
        return f"has atoms of {SYMBOLS[surplus[0]]}, unlike its formula ({shorten(formula.text)})"
    if found == total:
        return f"has other numbers of atoms than its formula ({shorten(formula.text)}) states"
    return f"{reason}; truncated?" if found < total else reason


def multiple_of(formula: Formula, units: int | None, atoms: Mapping[int, int]) -> int:
    """Return how many formulas these atoms are; 0 if they are no whole number, or not the stated.

    Args:
        formula: as stated.
        units: the stated number Z of formula units.
        atoms: atomic number -> atoms in the cell.
    """
    for reading in formula.readings:
        total = sum(reading.values())
        if reading.keys() != atoms.keys() or not 0 < total < MAX_COUNT:
            continue
        multiple = round(sum(atoms.values()) / total)
        if multiple < 1 or (units is not None and multiple not in (1, units)):
            continue
        exact = all(n == int(n) for n in reading.values())
        slack = 1e-6 if exact else min(_ROUNDING * multiple, 0.49)
        if all(abs(atoms[z] - n * multiple) <= slack for z, n in reading.items()):
            return multiple
    return 0
