"""`crysmetrics relax`: positions and cells moved to where forces vanish."""

from __future__ import annotations

from pathlib import Path

import click

from crysmetrics.cli.options import (
    Finite,
    cif_column_option,
    device_option,
    id_column_option,
    overwrite_option,
    progress,
    quiet_option,
    user_errors,
    workers_option,
)
from crysmetrics.console import echo


@click.command()
@click.argument("source", metavar="IN")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="Write the results here.")
@click.option(
    "--potential",
    default="chgnet",
    show_default=True,
    metavar="NAME",
    help="Relax with chgnet, 7net-0 or 7net-l3i5 (extras: relax, sevennet), all trained on the "
    "Materials Project.",
)
@click.option(
    "--dispersion/--no-dispersion",
    default=False,
    show_default=True,
    help="Add D3 dispersion (none for Li, Na and crystals of metals).",
)
@click.option(
    "--force-tol",
    type=Finite(min=0, min_open=True),
    default=0.03,
    show_default=True,
    metavar="X",
    help="Stop when no force is larger than X eV/Å.",
)
@click.option(
    "--max-steps",
    type=click.IntRange(min=0),
    default=200,
    show_default=True,
    metavar="N",
    help="Stop after N steps, whatever the forces are.",
)
@click.option(
    "--time-limit",
    type=Finite(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="X",
    help="Give up a structure after X seconds.",
)
@click.option("--fixed-cell", is_flag=True, help="Move atoms, and keep the cell as it is.")
@device_option
@workers_option
@id_column_option
@cif_column_option
@quiet_option
@overwrite_option
@user_errors
def relax(
    source: str,
    output: str,
    potential: str,
    dispersion: bool,
    force_tol: float,
    max_steps: int,
    time_limit: float,
    fixed_cell: bool,
    device: str,
    workers: int | None,
    id_column: str | None,
    cif_column: str | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Relax structures by a potential: positions and cells.

    FOLDER gets a CIF of each relaxed structure, and relaxed.csv and relaxed.json with all
    structures: energies before and after, steps, RMSD between start and end in Å. Structures that
    did not converge in time, fell apart or can't be read are listed there with the reason. The same
    command goes on where it was interrupted.
    """
    from crysmetrics.device import torch_device
    from crysmetrics.io import read
    from crysmetrics.potentials.registry import load_potential
    from crysmetrics.relaxation import RelaxationSettings
    from crysmetrics.relaxation.folder import TABLE, relax_to_folder

    load_potential(potential, dispersion=dispersion).identity()
    settings = RelaxationSettings(force_tol, max_steps, time_limit, fixed_cell=fixed_cell)
    with progress(quiet):
        table = relax_to_folder(
            read(source, id_column=id_column, cif_column=cif_column, workers=workers),
            Path(output),
            potential=potential,
            dispersion=dispersion,
            settings=settings,
            device=torch_device(device),
            workers=workers,
            overwrite=overwrite,
        )
    failed = table[table.reason != ""]
    for row in failed.head(20).itertuples():
        echo(f"not relaxed: {row.id}: {row.reason}", err=True)
    if not quiet:
        converged = table[table.reason == ""]
        echo(
            f"{len(converged):,} of {len(table):,} structures relaxed, "
            f"in {converged.steps.sum():,} steps; median RMSD {converged.rmsd.median():.3f} Å; "
            f"{Path(output) / TABLE}."
        )
