"""Commands on structures themselves: convert."""

from __future__ import annotations

import click

from crysmetrics.cli.options import (
    Finite,
    overwrite_option,
    progress,
    quiet_option,
    user_errors,
    workers_option,
)
from crysmetrics.console import echo


@click.command()
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--symmetrize", is_flag=True, help="Write CIFs in the space group found, not P1.")
@click.option(
    "--tolerance",
    type=Finite(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="Å within which symmetry is found.",
)
@click.option("--id-column", metavar="NAME", help="Of a CSV; material_id, id, ... by default.")
@workers_option
@quiet_option
@overwrite_option
@user_errors
def convert(
    source: str,
    target: str,
    symmetrize: bool,
    tolerance: float,
    id_column: str | None,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Read structures and write them in another format.

    OUT says which: .npz (packed, loss-free), .zip of CIFs, .cif, .xyz or .extxyz; anything else
    is a folder of CIFs. What can't be read is named, and only .npz keeps the note of it.
    """
    from crysmetrics.cli.options import check_outputs
    from crysmetrics.io import read, write

    check_outputs(overwrite, target)
    with progress(quiet):
        crystals = read(source, id_column=id_column, workers=workers)
        write(crystals, target, symmetrize=symmetrize, tolerance=tolerance, overwrite=overwrite)
    for failure in crystals.failures:
        echo(f"not converted: {failure.file}: {failure.reason}", err=True)
    if not quiet:
        echo(f"{len(crystals):,} structures written to {target}.")
