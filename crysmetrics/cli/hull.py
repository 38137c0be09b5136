"""Commands on hulls of known phases: hull build, hull show."""

from __future__ import annotations

from pathlib import Path

import click

from crysmetrics.cli.options import (
    check_outputs,
    json_option,
    overwrite_option,
    progress,
    quiet_option,
    refuse_other_ending,
    seed_option,
    user_errors,
)
from crysmetrics.cli.stability import hull_option
from crysmetrics.console import echo


@click.group()
def hull() -> None:
    """Show and build tables of known phases and their convex hulls."""


@hull.command()
@click.argument("entries", metavar="ENTRIES")
@click.option(
    "-o", "--output", required=True, metavar="FILE.npz", help="Write the table of phases here."
)
@click.option(
    "--source", default="", metavar="TEXT", help="Note the source of the data, and its licence."
)
@seed_option
@quiet_option
@overwrite_option
@user_errors
def build(entries: str, output: str, source: str, seed: int, quiet: bool, overwrite: bool) -> None:
    """Make a table of phases for `stability --hull` and `hull show --hull`.

    ENTRIES is a .csv or .json with a formula and formation_energy_per_atom for each phase, or
    energy_per_atom if every element is among them; or JSON of pymatgen's entries or PhaseDiagram,
    as databases give them. The hull's errors are estimated by leaving out
    compositions.
    """
    from crysmetrics.hull.entries import read_entries

    refuse_other_ending(output, ".npz", "Tables of phases")
    check_outputs(overwrite, output)
    table = read_entries(Path(entries), source)
    with progress(quiet):
        table = table.with_errors(seed)
    table.save(Path(output))
    if not quiet:
        echo(f"{len(table):,} phases in {output}.")


@hull.command()
@click.argument("system", metavar="SYSTEM")
@hull_option
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="Draw the hull: .png, .svg or .pdf of two or three elements, .html of up to four.",
)
@click.option("--all", "everything", is_flag=True, help="List phases far above the hull as well.")
@json_option
@quiet_option
@overwrite_option
@user_errors
def show(
    system: str,
    hull: str | None,
    output: str | None,
    everything: bool,
    json_path: str | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """List the known phases of a chemical system such as Li-Fe-O, and draw their hull."""
    from rich.table import Table

    from crysmetrics.console import console
    from crysmetrics.hull.diagram import hull_diagram
    from crysmetrics.hull.table import SHIPPED, load_hull, parse_system, phases_of
    from crysmetrics.io.json_files import write_json
    from crysmetrics.reporting.hull_plots import check_figure, save_diagram
    from crysmetrics.reporting.hull_style import SHOWN_UNSTABLE

    elements = parse_system(system)
    check_figure(output, interactive=True)
    check_outputs(overwrite, output, json_path)
    table = load_hull(SHIPPED if hull is None else Path(hull))
    phases = phases_of(table, elements)
    if output is not None:
        save_diagram(hull_diagram(table, elements), output)
    if json_path is not None:
        document = {"system": system, "source": table.source}
        write_json({**document, "phases": [phase._asdict() for phase in phases]}, json_path)
    if quiet:
        return
    screen = console(stderr=json_path == "-")
    shown = Table("formula", "id", "formation energy", "above the hull", title=system)
    for phase in phases:
        if everything or phase.e_above_hull <= SHOWN_UNSTABLE:
            energies = f"{phase.formation_energy_per_atom:.3f}", f"{phase.e_above_hull:.3f}"
            shown.add_row(phase.formula, phase.id, *energies)
    screen.print(shown)
    screen.print(f"Energies in eV/atom. {table.source}.")
