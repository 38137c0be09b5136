"""Structures worth a look: the worst and the best of a set, ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.io import Crystals
from crysmetrics.reporting.pictures import viewer_cell

if TYPE_CHECKING:
    import pandas as pd

    from crysmetrics.reporting.report import Report

SHOWN = 6
"""Structures of each kind."""


@dataclass(frozen=True)
class DescribedSet:
    """Structures, and a table with a row for each of them, in the same order.

    Rows of structures that could not be read may follow.
    """

    table: pd.DataFrame
    crystals: Crystals


def shown_structures(report: Report) -> list[dict[str, Any]]:
    """Draw the worst and the best structures of a report; see `draw_structures`."""
    if report.shown is not None:
        return [dict(entry) for entry in report.shown]
    sets = {
        role: DescribedSet(report.per_structure[role], sample.crystals)
        for role, sample in report.samples.items()
        if role in report.per_structure
    }
    return draw_structures(sets["gen"], sets.get("ref")) if "gen" in sets else []


def draw_structures(gen: DescribedSet, ref: DescribedSet | None) -> list[dict[str, Any]]:
    """Draw the worst and the best generated structures, each with its nearest reference.

    Worst first: invalid ones by their shortest distance, then those farthest from the reference.
    Best: valid ones nearest to a reference within the threshold of composition.

    Returns:
        A dictionary for each: `kind`, `title`, `facts`, `cell`, and `near` (the reference); none
        where validity was not computed.
    """
    if "struct_valid" not in gen.table:
        return []
    rows = gen.table.iloc[: len(gen.crystals)].reset_index(drop=True)
    worst, best = chosen_structures(rows)
    found = [_drawn(gen.crystals[i], rows.iloc[i], ref, "worst") for i in worst]
    return found + [_drawn(gen.crystals[i], rows.iloc[i], ref, "best") for i in best]


def chosen_structures(rows: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Find the worst and the best rows of a table of generated structures."""
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


def _drawn(
    crystal: Crystals, row: pd.Series, ref: DescribedSet | None, kind: str
) -> dict[str, Any]:
    name = row.get("nearest_id", "")
    return {
        "kind": kind,
        "title": str(row.id),
        "formula": str(row.get("formula", "")),
        "facts": _facts(row),
        "cell": viewer_cell(crystal),
        "near": _nearest(row, str(name), ref) if ref is not None and name else None,
    }


def _facts(row: pd.Series) -> list[str]:
    """Write lines that tell about a generated structure."""
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
    return facts


def _nearest(row: pd.Series, name: str, ref: DescribedSet) -> dict[str, Any]:
    """Find the reference that is nearest to a generated structure."""
    other = ref.crystals.ids.index(name)
    return {
        "title": name,
        "formula": str(ref.table["formula"].iloc[other]) if "formula" in ref.table else "",
        "facts": [
            f"structure distance {float(row.nearest_structure_distance):.3f}",
            f"smallest composition distance {float(row.nearest_composition_distance):.2f}",
        ],
        "cell": viewer_cell(ref.crystals[other]),
    }
