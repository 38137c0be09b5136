"""`crysgen optimize`."""

from __future__ import annotations

from pathlib import Path

import click

from crysgen.cli.latent_options import AT_LEAST_ONE, LatentCall, latent_options, name_of
from crysmetrics.cli.options import Finite


@click.command()
@click.option(
    "--property",
    "wanted",
    required=True,
    metavar="NAME",
    help="Optimise this property, such as formation_energy.",
)
@click.option(
    "--minimize/--maximize",
    default=True,
    show_default=True,
    help="Lower the property, or raise it.",
)
@click.option("--from", "start", required=True, metavar="IN", help="Begin at these structures.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the best crystals and their table here; by default into a folder named after IN.",
)
@click.option(
    "--first",
    type=AT_LEAST_ONE,
    metavar="N",
    help="Begin at the first N of them; by default at all.",
)
@click.option(
    "--gradient-steps",
    type=AT_LEAST_ONE,
    default=5000,
    show_default=True,
    metavar="N",
    help="Follow the gradient in latent space for N steps.",
)
@click.option(
    "--step-size",
    type=Finite(min=0, min_open=True),
    default=1e-3,
    show_default=True,
    metavar="X",
    help="Take gradient steps with this learning rate of Adam.",
)
@click.option(
    "--candidates",
    type=AT_LEAST_ONE,
    default=10,
    show_default=True,
    metavar="N",
    help="Decode N crystals on the way from each structure, and keep the best one.",
)
@latent_options(decoder_steps="--steps")
def optimize(
    wanted: str,
    minimize: bool,
    start: str,
    output: Path | None,
    first: int | None,
    gradient_steps: int,
    step_size: float,
    candidates: int,
    call: LatentCall,
) -> None:
    """Look for crystals with a better property near given ones.

    From the latent vector of each structure, follows the gradient of the property that the model
    predicts, and decodes crystals on the way. Of these it keeps the one that CDVAE's independent
    network finds best, valid ones before others, under the name of the structure. The
    folder gets CIFs and optimized.csv, which has the energies before and after. An interrupted
    command goes on when it is given again.
    """
    from crysmetrics.cli.options import save_table
    from crysmetrics.errors import UserError
    from crysmetrics.io import write
    from crysmetrics.io.atomic import atomic_folder

    output = output or Path(f"{name_of(start)}-optimized")
    if output.suffix:
        raise UserError(f"{output} must be a folder: it gets a table beside the structures.")
    if candidates > gradient_steps:
        raise UserError("There are at most as many candidates as gradient steps.")
    with call.running(output) as model:
        from crysgen.kept_decodings import keeping
        from crysgen.optimization import TABLE, OptimizationSettings, property_name
        from crysgen.optimization import optimize as optimized

        property_name(model, wanted)
        crystals = call.read(start)[:first]
        settings = OptimizationSettings(
            not minimize, gradient_steps, step_size, candidates, call.seed, call.steps,
            call.workers, str(model.device), call.batch_size,
        )  # fmt: skip
        with keeping(output, call.overwrite) as kept:
            made, table = optimized(model, crystals, settings, kept)
            if not len(made):
                kept.discard()
                raise UserError("None of the crystals could be decoded.")
            with atomic_folder(output) as temporary:
                write(made, temporary / "structures")
                for path in (temporary / "structures").iterdir():
                    path.rename(temporary / path.name)
                (temporary / "structures").rmdir()
                save_table(table, temporary / TABLE)
    better = (table["best"] < table["start"]) if minimize else (table["best"] > table["start"])
    call.tell(
        f"{int(better.sum())} of {len(table)} structures got better; in the mean from "
        f"{table['start'].mean():.3f} to {table['best'].mean():.3f} eV/atom. {output / TABLE} "
        "has each."
    )
