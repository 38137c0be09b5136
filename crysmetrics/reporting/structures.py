"""Structures worth a look: the worst and the best of a set, ready to be drawn."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS

if TYPE_CHECKING:
    import pandas as pd

    from crysmetrics.reporting.report import Report

SHOWN = 6
"""Structures of each kind."""
MOST_ATOMS = 400
_EDGE = 1e-3


def shown_structures(report: Report) -> list[dict[str, Any]]:
    """The worst and the best generated structures, each with its nearest reference.

    Worst first: invalid ones by their shortest distance, then those farthest from the reference.
    Best: valid ones nearest to a reference within the threshold of composition.

    Returns:
        A dictionary for each: `kind`, `title`, `facts`, `cell`, and `near` (the reference).
    """
    if report.shown is not None:
        return [dict(entry) for entry in report.shown]
    gen = report.samples.get("gen")
    table = report.per_structure.get("gen")
    if gen is None or table is None or "struct_valid" not in table:
        return []
    rows = table.iloc[: len(gen)].reset_index(drop=True)
    worst, best = chosen_structures(rows)
    found = [_shown(report, rows, i, "worst") for i in worst]
    return found + [_shown(report, rows, i, "best") for i in best]


def chosen_structures(rows: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Positions of the worst and of the best rows of a table of generated structures."""
    valid = rows["struct_valid"].to_numpy(dtype=bool)
    shortest = rows["min_distance"].to_numpy(dtype=float)
    # lexsort takes its last key first.
    if "nearest_structure_distance" not in rows:
        worst = np.lexsort((shortest, valid))
        return worst[:SHOWN].tolist(), []
    near = rows["nearest_structure_distance"].to_numpy(dtype=float)
    joint = rows["structure_distance_within_composition"].to_numpy(dtype=float)
    worst = np.lexsort((-near, np.where(valid, 0, shortest), valid))[:SHOWN]
    taken = set(worst.tolist())
    best = [
        i
        for i in np.lexsort((near, joint)).tolist()
        if valid[i] and np.isfinite(joint[i]) and i not in taken
    ]
    return worst.tolist(), best[:SHOWN]


def _shown(report: Report, rows: Any, i: int, kind: str) -> dict[str, Any]:
    row = rows.iloc[i]
    facts = [f"shortest distance {row.min_distance:.2f} Å"]
    if "density" in row:
        facts.append(f"density {row.density:.2f} g/cm³")
    if row.get("space_group"):
        facts.append(f"space group {row.space_group}")
    if "comp_valid" in row and not row.comp_valid:
        facts.append("composition not charge neutral")
    if not row.struct_valid:
        facts.insert(0, "invalid")
    if row.reason:
        facts.append(str(row.reason))
    entry = {
        "kind": kind,
        "title": str(row.id),
        "formula": str(row.get("formula", "")),
        "facts": facts,
        "cell": drawn(report.samples["gen"].crystals[i]),
        "near": None,
    }
    ref = report.samples.get("ref")
    name = row.get("nearest_id", "")
    if ref is not None and name:
        distance = float(row.nearest_structure_distance)
        other = ref.crystals.ids.index(name)
        reference = report.per_structure["ref"]
        entry["near"] = {
            "title": str(name),
            "formula": str(reference["formula"].iloc[other]) if "formula" in reference else "",
            "facts": [
                f"structure distance {distance:.3f}",
                f"smallest composition distance {float(row.nearest_composition_distance):.2f}",
            ],
            "cell": drawn(ref.crystals[other]),
        }
    return entry


def drawn(crystal: Crystals) -> dict[str, Any] | None:
    """One crystal as XYZ text and its lattice; atoms on the cell's border are repeated there.

    None if there are too many atoms to be drawn.
    """
    if len(crystal.atomic_numbers) > MOST_ATOMS:
        return None
    lattice = crystal.lattices[0]
    symbols, positions = [], []
    for z, frac in zip(crystal.atomic_numbers, crystal.frac_coords, strict=True):
        choices = [
            (x, x + 1) if x < _EDGE else ((x, x - 1) if x > 1 - _EDGE else (x,)) for x in frac
        ]
        for image in product(*choices):
            symbols.append(SYMBOLS[int(z)])
            positions.append(np.array(image) @ lattice)
    lines = [str(len(symbols)), ""]
    lines += [
        f"{s} {x:.4f} {y:.4f} {z:.4f}" for s, (x, y, z) in zip(symbols, positions, strict=True)
    ]
    return {"xyz": "\n".join(lines), "lattice": np.round(lattice, 5).tolist()}
