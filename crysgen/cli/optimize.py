"""`crysgen optimize`."""

from __future__ import annotations

from pathlib import Path

import click

from crysgen.cli.latent import (
    autoencoder_of,
    check_steps,
    common_options,
    number,
    output_option,
    steps_option,
    structures_of,
)
from crysmetrics.cli.options import (
    Finite,
    cif_column_option,
    id_column_option,
    progress,
    user_errors,
)
from crysmetrics.console import echo


@click.command()
@click.option(
    "--property", "wanted", required=True, metavar="NAME", help="Such as formation_energy."
)
@click.option("--minimize/--maximize", default=True, show_default=True, help="Which way is better.")
@click.option("--from", "start", required=True, metavar="IN", help="Structures to begin at.")
@output_option
@click.option("--first", type=number, metavar="N", help="The first N structures alone.")
@click.option(
    "--gradient-steps", type=number, default=5000, show_default=True, help="In latent space."
)
@click.option(
    "--step-size",
    type=Finite(min=0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Of these.",
)
@click.option(
    "--candidates",
    type=number,
    default=10,
    show_default=True,
    help="Decoded on each way; the best is kept.",
)
@steps_option
@id_column_option
@cif_column_option
@common_options
@user_errors
def optimize(
    wanted: str,
    minimize: bool,
    start: str,
    output: Path,
    first: int | None,
    gradient_steps: int,
    step_size: float,
    candidates: int,
    steps: int | None,
    id_column: str | None,
    cif_column: str | None,
    model: str | None,
    batch_size: int | None,
    seed: int,
    device: str,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Look for crystals with a better property near given ones.

    Follows the gradient of the property that the model predicts in its latent space, decodes
    crystals on the way, and keeps of each way the valid one that CDVAE's independent network finds
    best, under the name of the structure it began at. OUTPUT is a folder: CIFs, and optimized.csv
    with energies before and after.
    """
    from crysmetrics.errors import UserError
    from crysmetrics.io import write
    from crysmetrics.io.atomic import atomic_folder, refuse_existing

    refuse_existing(output, overwrite)
    if output.suffix:
        raise UserError(f"{output} must be a folder: it gets a table beside the structures.")
    if candidates > gradient_steps:
        raise UserError("There are at most as many candidates as gradient steps.")
    with progress(quiet):
        autoencoder = autoencoder_of(model, device)
        check_steps(autoencoder, steps)
        from crysgen.kept_decodings import keeping
        from crysgen.optimization import (
            TABLE,
            OptimizationSettings,
            property_name,
        )
        from crysgen.optimization import (
            optimize as optimized,
        )
        from crysmetrics.cli.options import save_table

        property_name(autoencoder, wanted)
        crystals = structures_of(start, workers, id_column, cif_column)[:first]
        settings = OptimizationSettings(
            not minimize, gradient_steps, step_size, candidates, seed, steps, workers,
            str(autoencoder.device), batch_size,
        )  # fmt: skip
        with keeping(output, overwrite) as kept:
            made, table = optimized(autoencoder, crystals, settings, kept)
            if not len(made):
                kept.discard()
                raise UserError("None of the crystals could be decoded.")
            with atomic_folder(output) as temporary:
                write(made, temporary / "structures")
                for path in (temporary / "structures").iterdir():
                    path.rename(temporary / path.name)
                (temporary / "structures").rmdir()
                save_table(table, temporary / TABLE)
    if not quiet:
        better = (
            (table["best"] > table["start"]) if not minimize else (table["best"] < table["start"])
        )
        echo(
            f"{int(better.sum())} of {len(table)} structures got better; in the mean from "
            f"{table['start'].mean():.3f} to {table['best'].mean():.3f} eV/atom. {output / TABLE} "
            "has each."
        )
