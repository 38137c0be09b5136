"""Result of `crysgen sample`, as JSON and for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysgen.cli.sample_options import SampleCall

if TYPE_CHECKING:
    from crysgen.requests import CompositionRequest
    from crysgen.samples import Result

_EXTRA = {"probability": "Probability", "relaxed_above_lowest": "Relaxed ΔE"}
"""Columns that are shown where they hold numbers, and their titles."""
_SHOWN = 16
"""Structures and failures that are listed; files have all."""


def show(
    call: SampleCall,
    path: Path,
    record: Mapping[str, Any],
    result: Result,
    requests: Sequence[CompositionRequest],
) -> None:
    """Write the JSON where it is wanted, and print a table of the first structures.

    Args:
        call: options of the command.
        path: folder of the run.
        record: source and request of the run.
        result: of the run.
        requests: compositions and how many samples of each.
    """
    if call.json_path is not None:
        from crysgen.polymorphs import phase_table
        from crysmetrics.io.json_files import write_json

        document = {
            "schema": "crysgen/1",
            **record,
            "output": str(path),
            "result": result.summary(),
            "samples": json.loads(result.table.to_json(orient="records")),
        }
        if call.polymorphs:
            phases = phase_table(result).to_json(orient="records")
            document["polymorphs"] = json.loads(phases)
        write_json(document, call.json_path)
    if call.quiet:
        return
    from crysmetrics.console import console

    screen = console(stderr=call.json_path == "-")
    screen.print(_phases(result) if call.polymorphs else _rich_table(result, len(requests)))
    for failure in result.failures[:_SHOWN]:
        name = failure["ref_id"] or failure["formula"]
        screen.print(f"not made: one of {name}: {failure['reason']}")
    if len(result.failures) > _SHOWN:
        screen.print(f"... and {len(result.failures) - _SHOWN} more; {path}/request.json has all")
    for note in result.notes:
        screen.print(note, soft_wrap=True)
    screen.print(_summary(path, result), soft_wrap=True)


def _phases(result: Result) -> Any:
    """Tabulate the distinct structures of each formula, the one of lowest energy first."""
    from rich.table import Table

    from crysgen.polymorphs import phase_table
    from crysmetrics.space_group_settings import short_symbol

    shown = Table(box=None, pad_edge=False)
    for title in ("Formula", "meV/atom", "Energy by", "Probability", "Atoms", "Å³/atom"):
        shown.add_column(title, justify="left" if title in ("Formula", "Energy by") else "right")
    for title in ("Space group", "Prototype", "Status", "File"):
        shown.add_column(title)
    for row in phase_table(result).to_dict("records"):
        energy, chance = row["above_lowest"], row["probability"]
        shown.add_row(
            row["formula"],
            "" if energy != energy else f"{'≤ ' * row['is_bound']}{1000 * energy:.0f}",
            row["energy_by"],
            "" if chance != chance else f"{chance:.2f}",
            str(row["num_atoms"]),
            f"{row['volume_per_atom']:.2f}",
            f"{short_symbol(int(row['space_group']))} ({row['space_group']})",
            row["prototype"],
            row["status"],
            row["file"],
        )
    shown.caption = "Energies above the lowest of each formula."
    return shown


def _summary(path: Path, result: Result) -> str:
    """Say how many structures there are, and where."""
    from crysgen.written_files import PAGE

    why = "draws were repeated: no crystals, or atoms on top of each other"
    again = f" ({result.redrawn} {why})" * bool(result.redrawn)
    count = len(result.crystals)
    structures = "1 structure is" if count == 1 else f"{count:,} structures are"
    return f"{structures} in {path}{again}; {path / PAGE} shows them."


def _rich_table(result: Result, num_requests: int) -> Any:
    """Tabulate the first structures: all of one composition, or the best of each."""
    from rich.table import Table

    from crysmetrics.space_group_settings import short_symbol

    rows = result.table if num_requests == 1 else result.table[result.table["rank"] == 1]
    shown = Table(box=None, pad_edge=False)
    shown.add_column("File")
    words = ("Space group", "Prototype", "Status")
    extra = [c for c in _EXTRA if c in rows and rows[c].notna().any()]
    for title in ("Rank", "Atoms", "Space group", "g/cm³", "Min. Å", "eV/atom"):
        shown.add_column(title, justify="left" if title in words else "right")
    for title in (*(_EXTRA[name] for name in extra), *words[1:]):
        shown.add_column(title, justify="left" if title in words else "right")
    for row in rows.head(_SHOWN).to_dict("records"):
        energy = row["predicted_formation_energy_per_atom"]
        symbol = short_symbol(int(row["space_group"]))
        shown.add_row(
            row["file"],
            str(row["rank"]),
            str(row["num_atoms"]),
            f"{symbol} ({row['space_group']})",
            f"{row['density']:.3f}",
            f"{row['min_distance']:.3f}",
            "" if energy != energy else f"{energy:.3f}",
            *("" if row[name] != row[name] else f"{row[name]:.3f}" for name in extra),
            row["prototype"],
            row["status"],
        )
    if len(rows) > _SHOWN:
        shown.caption = f"and {len(rows) - _SHOWN:,} more in samples.csv"
    return shown
