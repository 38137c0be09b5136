"""POSCAR and CONTCAR, the files of VASP: one structure each.

Read as VASP reads them: one or three scale factors, or a volume; Fortran's exponents; comments
behind numbers; positions direct or Cartesian; whatever follows the positions is left alone.
"""

from __future__ import annotations

import re
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from crysmetrics.io.cif_orbits import refuse_large
from crysmetrics.io.crystals import Crystals, Failure
from crysmetrics.io.elements import ATOMIC_NUMBERS, SYMBOLS
from crysmetrics.io.formats.base import Format
from crysmetrics.io.formats.handedness import right_handed
from crysmetrics.io.parsed import Parsed, cart_to_frac, lines_of, number, why_no_text

_NAME = re.compile(r"(poscar|contcar)([^a-z].*)?$")
_LABEL = re.compile(r"([A-Z][a-z]?)(\d*[+-]?\d*|_\w+)")
_HEADER_LINES = 9
"""Lines before the first position, at most."""
_MAX_LINE = 100_000
"""Longest line before the positions, in characters."""
_DIGITS = 12
"""A count of more digits than this is no number of atoms."""


def parse_poscar(text: str, source: str, max_atoms: int | None = None) -> list[Parsed | Failure]:
    """Read the structure of a POSCAR or CONTCAR that names its elements.

    VASP 5 has a line for them. In files of VASP 4, elements that stand behind each position go
    before a title that lists one element for each number of atoms; anything else is a guess.
    """
    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    try:
        return [Parsed(None, *_read(text, max_atoms), source)]
    except ValueError as error:
        return [Failure(source, str(error))]


def _read(
    text: str, max_atoms: int | None
) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64]]:
    """Read atomic numbers, fractional coordinates and lattice.

    Raises:
        ValueError: with the reason, if the text is no POSCAR or names no elements.
    """
    end = len(text.rstrip())
    lines = list(islice(lines_of(text, end), _HEADER_LINES))
    longest = max(map(len, lines))
    if longest > _MAX_LINE:
        raise ValueError(f"has a line of {longest} characters")
    if len(lines) < 7:
        raise ValueError("is truncated: a POSCAR has at least 8 lines")
    lattice, scale = _scaled(lines)
    symbols, counts, at = _species(lines)
    total = sum(counts)
    if total == 0:
        raise ValueError("has no atoms")
    refuse_large(total, max_atoms)
    selective = at < len(lines) and lines[at].strip()[:1] in tuple("sS")
    at += selective
    if at >= len(lines):
        raise ValueError("is truncated: a POSCAR has at least 8 lines")
    mode = lines[at].strip()
    if mode[:1] in tuple("0123456789+-."):
        raise ValueError(f"has {mode[:40]!r} where Direct or Cartesian should stand")
    rows = list(islice(lines_of(text, end), at + 1, at + 1 + total))
    if len(rows) < total:
        found = text.count("\n", 0, end) + 1
        raise ValueError(f"is truncated: it states {total} atoms in {found} lines")
    positions = [_numbers(row, 3, "a position") for row in rows]
    labels = [_label(row, selective) for row in rows]
    numbers = _elements(symbols, counts, labels, lines[0])
    if mode[:1] in tuple("cCkK"):
        return numbers, cart_to_frac(np.array(positions) * scale, lattice), lattice
    return numbers, np.array(positions), lattice


def _scaled(lines: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the lattice in Å, and the factors (3,) of Cartesian components."""
    scale = np.array(_leading_numbers(lines[1]))
    if len(scale) not in (1, 3) or not np.isfinite(scale).all() or not scale.all():
        raise ValueError(f"has {lines[1].strip()[:40]!r} where one or three scale factors stand")
    rows = np.array([_numbers(line, 3, "a lattice vector") for line in lines[2:5]])
    if len(scale) == 3:
        if not (scale > 0).all():
            raise ValueError("has three scale factors that are not all positive")
        with np.errstate(over="ignore"):
            return rows * scale, scale
    if scale[0] < 0:  # the volume of the cell
        volume = abs(np.linalg.det(rows))
        if not np.isfinite(rows).all() or not volume > 0:
            raise ValueError("has a cell of no volume")
        scale = (-scale / volume) ** (1 / 3)
    with np.errstate(over="ignore"):  # a cell that is not finite is named later
        return rows * scale[0], np.repeat(scale, 3)


def _species(lines: list[str]) -> tuple[list[str] | None, list[int], int]:
    """Read symbols (None in a file of VASP 4), counts, and the index of the line after them."""
    words = _words(lines[5])
    if not words:
        raise ValueError("has an empty line where its elements should stand")
    if re.fullmatch(r"\d+", words[0]):
        return None, _counts(lines[5]), 6
    counts = _counts(lines[6])
    symbols = [re.split(r"[_/:]", word)[0] for word in words]
    if len(symbols) != len(counts):
        # What follows may be a comment without a mark, as VASP reads no more than it needs.
        known = [s for s in symbols if s in ATOMIC_NUMBERS]
        if symbols[: len(counts)] != known or len(known) != len(counts):
            raise ValueError(
                f"lists {len(symbols)} elements but {len(counts)} numbers of atoms; which belong "
                "together would be a guess"
            )
        symbols = known
    for symbol in symbols:
        if symbol not in ATOMIC_NUMBERS:
            raise ValueError(f"holds an unknown element {symbol[:20]!r}")
    return symbols, counts, 7


def _counts(line: str) -> list[int]:
    counts = []
    for word in _words(line):
        if not re.fullmatch(r"\d+", word):
            break
        if len(word) > _DIGITS:
            raise ValueError(f"states a number of atoms of {len(word)} digits")
        counts.append(int(word))
    if not counts:
        raise ValueError(f"has {line.strip()[:40]!r} where numbers of atoms should stand")
    return counts


def _elements(
    symbols: list[str] | None, counts: list[int], labels: list[str | None], title: str
) -> list[int]:
    """Find the atomic number of each atom.

    Raises:
        ValueError: if the file names no elements, or two different ones for an atom.
    """
    labelled = all(label is not None for label in labels)
    if symbols is None:
        listed = _words(title)
        if labelled:
            starts = np.cumsum([0, *counts[:-1]])
            symbols = [labels[k] or "" if n else "" for k, n in zip(starts, counts, strict=True)]
        elif len(listed) == len(counts) and all(s in ATOMIC_NUMBERS for s in listed):
            symbols = listed
        else:
            raise ValueError("names no elements (a VASP 4 POSCAR); which they are would be a guess")
    stated = [s for s, count in zip(symbols, counts, strict=True) for _ in range(count)]
    if labelled and stated != labels:
        first = next(
            k for k, (s, label) in enumerate(zip(stated, labels, strict=True)) if s != label
        )
        raise ValueError(
            f"names two elements for its atom {first + 1}: {stated[first]} in its list and "
            f"{labels[first]} behind its position"
        )
    return [ATOMIC_NUMBERS[s] for s in stated]


def _label(row: str, selective: bool) -> str | None:
    """Find the element that stands behind a position, or None."""
    words = _words(row)[3:]
    if selective or (len(words) >= 3 and {"T", "F"}.issuperset(words[:3])):
        words = words[3:]
    match = _LABEL.fullmatch(words[0]) if words else None
    return match[1] if match and match[1] in ATOMIC_NUMBERS else None


def _words(line: str) -> list[str]:
    """Split into words a line before a comment; commas separate in Fortran as blanks do."""
    return re.split(r"[!#]", line, maxsplit=1)[0].replace(",", " ").split()


def _leading_numbers(line: str) -> list[float]:
    found = []
    for word in _words(line):
        try:
            found.append(number(word))
        except ValueError:
            break
    return found


def _numbers(line: str, count: int, what: str) -> list[float]:
    words = _words(line)[:count]
    try:
        found = [number(word) for word in words]
    except ValueError:
        found = []
    if len(found) < count:
        raise ValueError(f"has {line.strip()[:40]!r} where {what} should stand")
    return found


def poscar_text(crystal: Crystals) -> str:
    """Write the POSCAR of one structure: atoms grouped by element, in the order of appearance.

    Numbers have 16 decimals. The cell is right-handed, as VASP asks.
    """
    cell, frac_coords = right_handed(crystal)
    numbers = crystal.atomic_numbers.tolist()
    kinds = list(dict.fromkeys(numbers))
    order = sorted(range(len(numbers)), key=lambda k: kinds.index(numbers[k]))
    title = " ".join(crystal.ids[0].split())
    lines = [
        title.encode("ascii", "backslashreplace").decode() or "structure",
        "1.0",
        *(" ".join(f"{x:21.16f}" for x in row) for row in cell.tolist()),
        " ".join(SYMBOLS[z] for z in kinds),
        " ".join(str(numbers.count(z)) for z in kinds),
        "Direct",
        *(
            " ".join(f"{x:19.16f}" for x in frac_coords[k].tolist()) + f" {SYMBOLS[numbers[k]]}"
            for k in order
        ),
    ]
    return "\n".join(lines) + "\n"


def _is_poscar_name(base: str) -> bool:
    return _NAME.match(base) is not None


FORMAT = Format(
    name="poscar",
    title="POSCAR",
    suffixes=(".vasp", ".poscar"),
    parse=parse_poscar,
    is_name=_is_poscar_name,
    text=poscar_text,
    note="one structure a file",
)
