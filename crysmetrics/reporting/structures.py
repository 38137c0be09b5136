"""Structures worth a look: the worst and the best of a set, ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.features.e_above_hull import are_given
from crysmetrics.io import Crystals
from crysmetrics.metrics.stability import METASTABLE
from crysmetrics.reporting.pictures import viewer_cell

if TYPE_CHECKING:
    import pandas as pd

    from crysmetrics.features.extractor import Run
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
    """Draw the worst, the best and the most stable structures of a report.

    See `draw_structures` and `stable_structures`.
    """
    if report.shown is not None:
        return [dict(entry) for entry in report.shown]
    sets = {
        role: DescribedSet(report.per_structure[role], sample.crystals)
        for role, sample in report.samples.items()
        if role in report.per_structure
    }
    if "gen" not in sets:
        return []
    found = draw_structures(sets["gen"], sets.get("ref"))
    given = are_given(report.samples["gen"])
    return found + stable_structures(sets["gen"], None if given else report.samples["gen"].run)


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


def stable_structures(gen: DescribedSet, run: Run | None) -> list[dict[str, Any]]:
    """Draw the structures lowest above the hull, one of each composition, as made and as relaxed.

    What relaxation makes of these few is computed again, since energies alone are kept. `near` is
    the relaxed structure; None where no structure was to be relaxed.

    Args:
        gen: the structures, with their energies.
        run: how they were relaxed; None where energies were given.
    """
    from crysmetrics.above_hull import DEFAULT, stability

    if "relaxation_rmsd" not in gen.table:
        return []
    rows = gen.table.iloc[: len(gen.crystals)].reset_index(drop=True)
    above = rows["e_above_hull"].to_numpy(dtype=float)
    chosen: dict[tuple[tuple[int, float], ...], int] = {}
    for i in np.argsort(above, kind="stable").tolist():
        if np.isfinite(above[i]) and above[i] <= METASTABLE and len(chosen) < SHOWN:
            chosen.setdefault(_composition(gen.crystals[i]), i)
    picked = list(chosen.values())
    found = [_drawn(gen.crystals[i], rows.iloc[i], None, "stable") for i in picked]
    moved = rows["relaxation_rmsd"].to_numpy(dtype=float)[picked]
    if picked and run is not None and np.isfinite(moved).all():
        settings = run.stability or DEFAULT
        some = gen.crystals[picked]
        relaxed = stability(some, settings, device=run.device, workers=run.workers).relaxed
        for entry, i, crystal in zip(found, picked, relaxed, strict=True):
            row = rows.iloc[i]
            entry["near"] = {
                "heading": "Relaxed",
                "title": entry["title"],
                "formula": entry["formula"],
                "facts": [
                    f"{row.e_above_hull:.3f} eV/atom above the hull",
                    f"atoms moved by {row.relaxation_rmsd:.2f} Å",
                ],
                "cell": viewer_cell(crystal),
            }
    return found


def _composition(crystal: Crystals) -> tuple[tuple[int, float], ...]:
    numbers, counts = np.unique(crystal.atomic_numbers, return_counts=True)
    shares = np.round(counts / counts.sum(), 6)
    return tuple(zip(numbers.tolist(), shares.tolist(), strict=True))


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
    facts = []
    if "min_distance" in row:
        facts.append(f"shortest distance {row.min_distance:.2f} Å")
    if "density" in row:
        facts.append(f"density {row.density:.2f} g/cm³")
    if row.get("space_group"):
        facts.append(f"space group {row.space_group}")
    if "comp_valid" in row and not row.comp_valid:
        facts.append("composition not charge neutral")
    if not row.get("struct_valid", True):
        facts.insert(0, "invalid")
    if row.get("reason"):
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
