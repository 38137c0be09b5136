"""Extended XYZ: many frames in one file, each with its cell and properties in a comment line.

The rules are those of https://github.com/libAtoms/extxyz; frames that ase writes are read alike.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.cif_orbits import refuse_large
from crysmetrics.io.crystals import Crystals, Failure
from crysmetrics.io.elements import ATOMIC_NUMBERS, SYMBOLS
from crysmetrics.io.formats.base import Format
from crysmetrics.io.formats.extxyz_frames import Frame, frames_of, frames_of_pieces
from crysmetrics.io.parsed import (
    ID_KEYS,
    Parsed,
    cart_to_frac,
    is_scalar,
    lines_of,
    number,
    why_no_text,
)
from crysmetrics.io.pieces import Pieces
from crysmetrics.progress import task

_SPECIES = ("species", "symbols")
_NUMBERS = ("Z", "numbers")
_POSITIONS = ("pos", "positions")
_CHARGED = re.compile(r"([A-Za-z]{1,2})(?:\d*[+-]\d*)?")
_DEFAULT_COLUMNS = "species:S:1:pos:R:3"
_BOOLEANS = {
    **dict.fromkeys(("T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("F", "false", "False", "FALSE"), False),
}
# Each alternative matches at once or not at all, so that the time is linear in the length.
_PART = re.compile(
    r"""(?P<double>"(?:[^"\\]|\\.)*(?:"|\\?\Z))
      | (?P<quoted>'(?:[^'\\]|\\.)*(?:'|\\?\Z) | \{(?:[^}\\]|\\.)*(?:\}|\\?\Z)
                 | \[(?:[^]\\]|\\.)*(?:\]|\\?\Z))
      | (?P<blank>\s+)
      | (?P<equals>=)
      | (?P<bare>[^\s="'{[]+)""",
    re.DOTALL | re.VERBOSE,
)


def parse_extxyz(
    text: str, source: str, max_atoms: int | None = None
) -> Iterator[Parsed | Failure]:
    """Read all frames of an extended XYZ text; a damaged frame does not harm its neighbours."""
    reason = why_no_text(text)
    if reason is not None:
        yield Failure(source, reason)
        return
    yield from _parse_frames(((text, frame) for frame in frames_of(text)), source, max_atoms)


def parse_long_extxyz(
    pieces: Pieces, source: str, max_atoms: int | None = None
) -> Iterator[Parsed | Failure]:
    """Read all frames as `parse_extxyz` does, of which only some are held at a time."""
    yield from _parse_frames(frames_of_pieces(pieces()), source, max_atoms)


def _parse_frames(
    frames: Iterator[tuple[str, Frame]], source: str, max_atoms: int | None
) -> Iterator[Parsed | Failure]:
    first, second = next(frames, ("", Frame(reason="is empty"))), next(frames, None)
    both = (first,) if second is None else (first, second)
    for position, (text, frame) in enumerate(chain(both, frames), start=1):
        name = source if second is None else f"{source} frame {position}"
        if frame.reason is not None:
            yield Failure(name, frame.reason)
            continue
        try:
            refuse_large(frame.num_atoms, max_atoms)
            yield _parse_frame(text, frame, name)
        except ValueError as error:
            yield Failure(name, str(error))


def _parse_frame(text: str, frame: Frame, source: str) -> Parsed:
    """Read one frame.

    Raises:
        ValueError: with the reason, if it is no crystal.
    """
    fields = _fields(frame.comment)
    cell = _lattice(fields)
    columns = _columns(fields.pop("Properties", _DEFAULT_COLUMNS))
    numbers, positions = _rows(text, frame, columns)
    key = next((k for k in ID_KEYS if k in fields), None)
    name = None if key is None else fields.pop(key)
    properties = {k: value for k, text in fields.items() if (value := _value(k, text)) is not None}
    frac = cart_to_frac(positions, cell)
    return Parsed(name, numbers, frac, cell, source, properties)


def _lattice(fields: dict[str, str]) -> np.ndarray[Any, Any]:
    """Read the cell (3, 3), rows in Å, taken out of the fields with `pbc`."""
    key = next((k for k in fields if k.lower() == "lattice"), None)
    periodic = fields.pop("pbc", "T").replace(",", " ").split()
    if key is None:
        raise ValueError("has no Lattice, so it is no crystal")
    words = fields.pop(key).replace(",", " ").split()
    try:
        cell = np.array([number(word) for word in words]).reshape(3, 3)
    except ValueError:
        raise ValueError(f"has a Lattice that is not nine numbers ({len(words)} words)") from None
    if not cell.any():
        raise ValueError("has no Lattice, so it is no crystal")
    truths = [_BOOLEANS.get(word, word not in ("0", "f")) for word in periodic]
    if not all(truths):
        raise ValueError(f"is periodic in {sum(truths)} directions, not in three")
    return cell


def _columns(declared: str) -> dict[str, tuple[int, int]]:
    """Name -> (first column, number of columns), of `species:S:1:pos:R:3` and the like."""
    words = declared.split(":")
    found: dict[str, tuple[int, int]] = {}
    at = 0
    for name, _, width in zip(words[::3], words[1::3], words[2::3], strict=False):
        if not re.fullmatch(r"\d+", width):
            raise ValueError(f"declares columns that are none ({declared[:60]!r})")
        found[name] = (at, int(width[:9]))
        at += int(width[:9])
    if len(words) % 3:
        raise ValueError(f"declares columns that are none ({declared[:60]!r})")
    found[""] = (at, 0)  # the end
    return found


def _rows(
    text: str, frame: Frame, columns: dict[str, tuple[int, int]]
) -> tuple[list[int], np.ndarray[Any, Any]]:
    """Read atomic numbers, and Cartesian positions (n, 3) in Å."""
    total = columns.pop("")[0]
    at = next((columns[k] for k in _POSITIONS if k in columns), None)
    shown = ", ".join(columns)[:80]
    if at is None or at[1] != 3:
        raise ValueError(f"has no column pos of three numbers (its columns: {shown})")
    species = next((columns[k] for k in _SPECIES if k in columns), None)
    charges = next((columns[k] for k in _NUMBERS if k in columns), None)
    kind = species or charges
    if kind is None or kind[1] != 1:
        raise ValueError(f"has no column species (its columns: {shown})")
    element = _element if species else _atomic_number
    numbers: list[int] = []
    positions = array("d")
    for row in lines_of(text, frame.end, frame.start):
        words = row.split()
        if len(words) < total:
            raise ValueError(f"declares {total} columns where its rows have {len(words)}")
        numbers.append(element(words[kind[0]]))
        try:
            positions.extend(map(number, words[at[0] : at[0] + 3]))
        except ValueError:
            raise ValueError(f"has {row.strip()[:60]!r} where a position should stand") from None
    return numbers, np.array(positions).reshape(-1, 3)


def _element(symbol: str) -> int:
    """Read the atomic number of a symbol in any case, charged or not (Cs+, O2-, Fe3+)."""
    match = _CHARGED.fullmatch(symbol)
    found = ATOMIC_NUMBERS.get(match[1].capitalize()) if match else None
    if found is None:
        raise ValueError(f"holds an unknown element {symbol[:20]!r}")
    return found


def _atomic_number(word: str) -> int:
    if not re.fullmatch(r"\d{1,3}", word):
        raise ValueError(f"has {word[:20]!r} where an atomic number should stand")
    return int(word)


# --- the comment line ------------------------------------------------------------------------


def _fields(comment: str) -> dict[str, str]:
    """Read `key=value` pairs of a comment line as text; words without a value are none."""
    found: dict[str, str] = {}
    key: str | None = None
    value = ""
    for match in _PART.finditer(comment):
        part, kind = match[0], match.lastgroup
        if kind == "equals" and key is None:
            key, value = value, ""
        elif kind == "blank":
            if key:
                found[key] = value
            key, value = None, ""
        elif kind == "double":
            value += _unescape(part[1:].removesuffix('"'))
        elif kind == "quoted":
            value += part[1:-1]
        else:
            value += part
    if key:
        found[key] = value
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda match: {"n": "\n", "r": "\r"}.get(match[1], match[1]), text)


def _value(key: str, text: str) -> Any:
    """Read a property: a number, a truth or text; None for arrays and what is too long."""
    parts = text.replace(",", " ").split()
    if key.lower() == "uid" or not parts:
        return text if text and is_scalar(text) else None
    try:
        values = [number(part) for part in parts]
    except ValueError:
        truths = [_BOOLEANS.get(part) for part in parts]
        if None not in truths:
            return truths[0] if len(truths) == 1 else None
        return text if is_scalar(text) and not text.startswith("_JSON") else None
    if len(values) > 1:
        return None
    whole = re.fullmatch(r"[+-]?\d{1,18}", parts[0])
    return int(parts[0]) if whole else values[0]


# --- writing ---------------------------------------------------------------------------------

_ID_KEY = "material_id"
_TAKEN = ("", "lattice", "properties", "pbc", _ID_KEY)


def extxyz_text(crystal: Crystals) -> str:
    """Write the frame of one structure, with its id and properties in the comment line."""
    return _frame_text(crystal, _keys(list(crystal.properties)))


def save_extxyz(crystals: Crystals, path: Path) -> None:
    """Write one frame for each structure."""
    keys = _keys(list(crystals.properties))
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
        task("Writing frames", len(crystals)) as advance,
    ):
        for structure in crystals:
            file.write(_frame_text(structure, keys))
            advance(1)


def _frame_text(structure: Crystals, keys: dict[str, str]) -> str:
    lattice = " ".join(map(repr, structure.lattices[0].ravel().tolist()))
    info = {keys[k]: values[0].item() for k, values in structure.properties.items()}
    comment = [
        f'Lattice="{lattice}"',
        "Properties=species:S:1:pos:R:3",
        f"{_ID_KEY}={_quoted(structure.ids[0])}",
        # Missing text reads as empty; ase stumbles over an empty pair of quotes.
        *(f"{key}={_quoted(v)}" for key, v in info.items() if v != ""),
        'pbc="T T T"',
    ]
    cart = structure.frac_coords @ structure.lattices[0]
    rows = [
        f"{SYMBOLS[z]} {x!r} {y!r} {z_!r}"
        for z, (x, y, z_) in zip(structure.atomic_numbers, cart.tolist(), strict=True)
    ]
    return "\n".join([str(len(rows)), " ".join(comment), *rows]) + "\n"


def _keys(names: list[str]) -> dict[str, str]:
    """Make keys of a frame's comment line, of letters and digits alone, of property names."""
    keys: dict[str, str] = {}
    for name in names:
        key = re.sub(r"\W", "_", name, flags=re.ASCII)
        while key.lower() in _TAKEN or key in keys.values():
            key += "_"
        keys[name] = key
    return keys


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return "T" if value else "F"
    if not isinstance(value, str):
        return repr(value)
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.replace(character, escaped)
    return f'"{value}"'


def _sniff(head: bytes) -> bool:
    lines = [line.strip() for line in head.split(b"\n")]
    return lines[0].isdigit() and len(lines) > 1 and b"lattice=" in lines[1].lower()


FORMAT = Format(
    name="extxyz",
    title="extended XYZ",
    suffixes=(".extxyz", ".xyz"),
    parse=parse_extxyz,
    parse_long=parse_long_extxyz,
    sniff=_sniff,
    text=extxyz_text,
    save=save_extxyz,
    note="one frame each",
)
