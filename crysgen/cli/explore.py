"""`crysgen explore`: what a chemical system may hold beside the known phases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from crysgen.cli.options import model_option
from crysmetrics.cli.options import (
    SEED,
    Finite,
    device_option,
    progress,
    quiet_option,
    user_errors,
    workers_option,
)
from crysmetrics.cli.stability import agree_option, hull_option, potentials_option
from crysmetrics.console import echo


@click.command()
@click.argument("system", metavar="SYSTEM")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Write the results here.")
@click.option(
    "--minutes",
    type=Finite(min=0, min_open=True),
    metavar="X",
    help="Stop after X minutes; what is not finished then is left to a later call.",
)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="Make N structures of each composition.",
)
@click.option(
    "--max-atoms",
    type=click.IntRange(min=2),
    default=12,
    show_default=True,
    metavar="N",
    help="Look at formulas and cells of at most N atoms.",
)
@click.option(
    "--method",
    default="retrieval",
    show_default=True,
    metavar="NAME",
    help="Take candidates as `crysgen sample --method NAME` does.",
)
@model_option
@potentials_option
@agree_option
@hull_option
@click.option(
    "--seed", type=SEED, default=0, show_default=True, metavar="N", help="Seed random draws."
)
@device_option
@workers_option
@quiet_option
@user_errors
def explore(
    system: str,
    output: str,
    minutes: float | None,
    count: int,
    max_atoms: int,
    method: str,
    model: str | None,
    potentials: str,
    agree: bool,
    hull: str | None,
    seed: int,
    device: str,
    workers: int | None,
    quiet: bool,
) -> None:
    """Look for phases of a chemical system such as Li-Fe-O that the known hull lacks.

    Samples the system's compositions, the most plausible first, relaxes the crystals by each
    potential, and builds the hull with the known phases. FOLDER gets candidates.csv with energies
    by each potential, structures near the hull, hull.html and hull.png. The same command goes on
    where it was interrupted or where its minutes ended.
    """
    from crysgen.explore import RECORD, TABLE, ExploreSettings
    from crysgen.explore import explore as run
    from crysgen.proposers.base import METHODS
    from crysgen.settings import Resources
    from crysmetrics.cli.stability import stability_settings
    from crysmetrics.device import torch_device
    from crysmetrics.errors import UserError
    from crysmetrics.hull.table import parse_system
    from crysmetrics.interrupts import advice
    from crysmetrics.io.json_files import read_json_object

    if method not in METHODS:
        raise UserError(f"Methods are {', '.join(METHODS)}; not {method!r}.")
    elements = parse_system(system)
    if len(elements) < 2:
        raise UserError(f"A system to explore has two elements at least; {system} has one.")
    chosen = stability_settings(potentials, agree, True, hull)
    settings = ExploreSettings(elements, count, max_atoms, method, seed, chosen, model)
    resources = replace(Resources(), device=torch_device(device), workers=workers)
    with advice("the same command goes on where it stopped"), progress(quiet):
        found = run(settings, Path(output), resources=resources, minutes=minutes)
    if quiet:
        return
    result = read_json_object(Path(output) / RECORD)["result"]
    for phase in result["on_hull"]:
        echo(f"on the hull: {phase['formula']} ({phase['phase']})")
    for row in found.drop_duplicates("formula").head(15).itertuples():
        known = "known composition" if row.known_composition else "new composition"
        echo(
            f"{row.formula}: {row.e_above_hull:.3f} eV/atom above the hull, "
            f"{row.e_above_known:+.3f} against known phases; {known}."
        )
    done, total = result["compositions"], result["of"]
    rest = "" if done == total else "; the same command goes on with the others"
    echo(f"{done:,} of {total:,} compositions are finished{rest}.")
    figure = f"; open {Path(output) / 'hull.html'}" if len(elements) <= 4 else ""
    echo(f"{len(found):,} candidates in {Path(output) / TABLE}{figure}.")
