"""`crysgen wyckoff`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crysmetrics.cli.options import json_option, overwrite_option, user_errors
from crysmetrics.console import counted, echo

if TYPE_CHECKING:
    from crysgen.compositions.formulas import Formula
    from crysgen.wyckoff.fillings import Filling


@click.command()
@click.argument("formula", metavar="FORMULA")
@click.option(
    "--space-group",
    required=True,
    metavar="NUMBER|SYMBOL",
    help="Fill this space group, such as 136 or P4_2/mnm.",
)
@click.option(
    "--formula-units",
    default="auto",
    show_default=True,
    metavar="auto|N,...",
    help="Put this many formula units into the primitive cell; auto tries every number within "
    "--max-atoms.",
)
@click.option(
    "--max-atoms",
    type=click.IntRange(1, 200),
    default=20,
    show_default=True,
    metavar="N",
    help="Try primitive cells of at most N atoms with --formula-units auto.",
)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    metavar="N",
    help="List the first N ways; all are counted.",
)
@json_option
@overwrite_option
@user_errors
def wyckoff(
    formula: str,
    space_group: str,
    formula_units: str,
    max_atoms: int,
    count: int,
    json_path: str | None,
    overwrite: bool,
) -> None:
    """List the ways to fill the Wyckoff positions of a space group with a formula's atoms.

    All ways are counted exactly. Those come first whose Wyckoff positions are the most frequent
    in real crystals.
    """
    from crysgen.cli.options import space_group_number
    from crysgen.compositions.formula_units import parse_formula_units
    from crysgen.compositions.formulas import parse_formula
    from crysgen.wyckoff.listing import list_fillings
    from crysmetrics.cli.options import check_outputs
    from crysmetrics.space_groups.groups import space_group as look_up

    check_outputs(overwrite, json_path)
    parsed = parse_formula(formula)
    group = look_up(space_group_number(space_group) or 1)
    counts, found = list_fillings(
        parsed, group, parse_formula_units(formula_units), max_atoms, count
    )
    if json_path is not None:
        from crysmetrics.io.json_files import write_json

        document = {
            "schema": "crysgen/1",
            "formula": parsed.text,
            "space_group": group.number,
            "symbol": group.symbol,
            "num_fillings": {str(units): number for units, number in counts.items()},
            "fillings": [_record(filling) for filling in found],
        }
        write_json(document, json_path)
    if json_path != "-":
        _show(parsed, counts, found)


def _record(filling: Filling) -> dict[str, Any]:
    """Turn a filling into plain values."""
    from crysmetrics.io.elements import SYMBOLS

    return {
        "formula_units": filling.units,
        "num_atoms": filling.num_atoms,
        "free_coordinates": filling.num_free,
        "log_likelihood": round(filling.score, 4),
        "orbits": [
            {
                "element": SYMBOLS[element],
                "letter": position.letter,
                "multiplicity": position.multiplicity,
                "site_symmetry": position.site_symmetry,
                "coordinates": position.coordinates,
            }
            for element, position in filling.orbits
        ],
    }


def _show(formula: Formula, counts: dict[int, int], found: list[Filling]) -> None:
    from crysmetrics.io.elements import SYMBOLS

    group = found[0].space_group
    echo(f"{formula} in space group {group.number} ({group.symbol}, {group.crystal_system}):")
    for units, number in counts.items():
        size = counted(units, "formula unit")
        echo(f"  {size} in the primitive cell: {counted(number, 'way')}")
    for rank, filling in enumerate(found, start=1):
        parts = [
            f"{SYMBOLS[element]} " + " + ".join(p.name for p in filling.positions_of(element))
            for element in dict.fromkeys(element for element, _ in filling.orbits)
        ]
        echo(
            f"{rank:>4}. {', '.join(parts)}  ({counted(filling.units, 'formula unit')}, "
            f"{counted(filling.num_free, 'free coordinate')})"
        )
