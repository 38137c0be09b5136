"""Read a user's own phases, or a downloaded phase diagram, into a table of known phases.

Tables (`.csv`, `.csv.gz`) and JSON lists have a `formula` and an energy: formation energies
(`formation_energy_per_atom`), or total ones (`energy_per_atom`), from which formation energies
follow if every element has a phase among them. JSON of pymatgen's entries, or of its
`PhaseDiagram`, has compositions and total energies of all atoms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crysmetrics.errors import InputError
from crysmetrics.hull.table import HullTable
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.io.json_text import load_json

FORMATION = ("formation_energy_per_atom", "formation_energy", "e_form", "energy_formation_per_atom")
TOTAL = ("energy_per_atom", "uncorrected_energy_per_atom")
ABOVE = ("e_above_hull", "energy_above_hull")
IDS = ("material_id", "id", "entry_id", "mp_id")
FORMULAS = ("formula", "pretty_formula", "composition", "formula_pretty", "reduced_formula")
LARGEST_FILE = 2_000_000_000
"""Bytes of a file of entries that is read."""


class _Entry(NamedTuple):
    """One phase as it was read."""

    name: str
    composition: dict[int, int]
    formation: float
    total: float
    above: float


def read_entries(path: Path, source: str = "") -> HullTable:
    """Read phases from a file.

    Args:
        path: `.csv`, `.csv.gz` or `.json`.
        source: where they come from.

    Raises:
        InputError: if it can't be read, or energies are missing.
    """
    records = _records(path)
    entries = [_entry(record, number) for number, record in enumerate(records, 1)]
    if not entries:
        raise InputError(f"{path} holds no phases.")
    elements = _element_energies(entries)
    energies = [_formation(entry, elements) for entry in entries]
    return HullTable(
        tuple(entry.name for entry in entries),
        tuple(entry.composition for entry in entries),
        np.array(energies),
        np.array([entry.above for entry in entries]),
        source or path.name,
    )


def _records(path: Path) -> list[Mapping[str, Any]]:
    if not path.is_file():
        raise InputError(f"There is no file {path}.")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} is larger than {LARGEST_FILE / 1e9:.0f} GB.")
    if path.suffix.lower() == ".json":
        try:
            content = load_json(path.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no JSON ({error}).") from error
        if isinstance(content, dict):
            content = content.get("all_entries", content.get("entries", content.get("data")))
        if not isinstance(content, list) or not all(isinstance(r, dict) for r in content):
            raise InputError(f"{path} holds no list of phases.")
        return content
    import pandas as pd

    try:
        table = pd.read_csv(path, keep_default_na=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} is no table ({error}).") from error
    found: list[Mapping[str, Any]] = table.to_dict("records")
    return found


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    found = [record[name] for name in names if record.get(name) not in (None, "")]
    return found[0] if found else None


def _entry(record: Mapping[str, Any], number: int) -> _Entry:
    from pymatgen.core import Composition

    where = f"phase {number}"
    given = _first(record, FORMULAS)
    try:
        composition = Composition(given)
        amounts = {element.Z: float(n) for element, n in composition.items()}
        counts = {z: round(n) for z, n in amounts.items()}
        if not counts or any(abs(n - amounts[z]) > 1e-6 or n < 1 for z, n in counts.items()):
            raise ValueError("whole numbers of atoms are needed")
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"In {where}, {given!r} is no formula ({error}).") from error
    total = _number(_first(record, TOTAL), where)
    energy = _number(record.get("energy"), where)
    if math.isnan(total) and not math.isnan(energy):
        # pymatgen's entries: of all atoms, with corrections beside it.
        adjustments = record.get("energy_adjustments") or []
        more = [_number(a.get("value"), where) for a in adjustments if isinstance(a, dict)]
        more += [0.0 if adjustments else _number(record.get("correction", 0.0), where)]
        total = (energy + sum(m for m in more if not math.isnan(m))) / sum(counts.values())
    formation = _number(_first(record, FORMATION), where)
    if math.isnan(total) and math.isnan(formation):
        raise InputError(
            f"{where.capitalize()} has no energy: {FORMATION[0]}, {TOTAL[0]} or energy."
        )
    name = str(_first(record, IDS) or given if isinstance(given, str) else where)
    return _Entry(name, counts, formation, total, _number(_first(record, ABOVE), where))


def _number(value: Any, where: str) -> float:
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"In {where}, {value!r} is no number.") from None


def _element_energies(entries: list[_Entry]) -> dict[int, float]:
    """Find the lowest total energy of each element."""
    found: dict[int, float] = {}
    for entry in entries:
        if len(entry.composition) == 1 and not math.isnan(entry.total):
            z = next(iter(entry.composition))
            found[z] = min(entry.total, found.get(z, math.inf))
    return found


def _formation(entry: _Entry, elements: Mapping[int, float]) -> float:
    if not math.isnan(entry.formation):
        return entry.formation
    missing = [z for z in entry.composition if z not in elements]
    if missing:
        symbol = SYMBOLS[missing[0]]
        raise InputError(
            f"{entry.name} has a total energy, but there is none of the element {symbol}: add it, "
            f"or give {FORMATION[0]}."
        )
    atoms = sum(entry.composition.values())
    return entry.total - sum(elements[z] * n for z, n in entry.composition.items()) / atoms
