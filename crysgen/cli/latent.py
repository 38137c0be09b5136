"""`crysgen reconstruct`, `encode` and `interpolate`: the latent space of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from crysgen.cli.latent_options import (
    AT_LEAST_ONE,
    LatentCall,
    latent_options,
    name_of,
    output_option,
)
from crysmetrics.cli.options import refuse_other_ending

if TYPE_CHECKING:
    from crysmetrics.io import Crystals


@click.command()
@click.argument("structures", metavar="IN")
@output_option
@click.option(
    "-n",
    "--num-samples",
    "count",
    type=AT_LEAST_ONE,
    default=1,
    show_default=True,
    metavar="N",
    help="Decode each structure N times.",
)
@latent_options(decoder_steps="--steps")
def reconstruct(structures: str, output: Path, count: int, call: LatentCall) -> None:
    """Encode structures as latent vectors, and decode these into structures again.

    Each keeps its name, so that `crysmetrics match OUT IN` says how many came back; with -n
    above 1, names end in -1, -2, ... An interrupted command goes on when it is given again.
    """
    from crysmetrics.io import write

    with call.running(output) as model:
        from crysgen.kept_decodings import keeping
        from crysgen.latent import encode

        crystals = call.read(structures)
        vectors, ids = encode(model, crystals), list(crystals.ids)
        if count > 1:
            vectors = vectors.repeat(count, axis=0)
            ids = [f"{name}-{k + 1}" for name in ids for k in range(count)]
        with keeping(output, call.overwrite) as kept:
            made = call.decode(model, vectors, ids, kept, "Reconstructing")
            write(made, output, overwrite=call.overwrite)
    call.tell(f"{len(made):,} reconstructions of {len(crystals):,} structures in {output}.")


@click.command()
@click.argument("structures", metavar="IN")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.npz",
    help="Write the arrays here.",
)
@latent_options()
def encode(structures: str, output: Path, call: LatentCall) -> None:
    """Encode structures as latent vectors, and write these as arrays.

    The .npz holds `ids`, `latents` (one row for each structure), `num_atoms` as predicted from
    them, and the property that the model predicts, if any, under its name. Structures are brought
    to primitive Niggli cells first, so that their vectors do not depend on the choice of the cell.
    """
    refuse_other_ending(output, ".npz", "Latent vectors")
    with call.running(output) as model:
        from crysgen.latent import encode as encoded
        from crysgen.latent import save_latents

        crystals = call.read(structures)
        vectors = encoded(model, crystals)
        save_latents(model, vectors, crystals.ids, output)
    call.tell(f"{len(vectors):,} vectors of {vectors.shape[1]} numbers in {output}.")


@click.command()
@click.argument("first", metavar="A")
@click.argument("last", metavar="B")
@click.option(
    "--steps",
    "points",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    metavar="N",
    help="Decode N points of the line, both ends among them.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE",
    help="Write a folder of CIFs; or one .zip, .extxyz or .npz. By default a folder named after "
    "both structures.",
)
@latent_options(decoder_steps="--decoder-steps")
def interpolate(first: str, last: str, points: int, output: Path | None, call: LatentCall) -> None:
    """Decode crystals along the straight line between two structures in latent space.

    An interrupted command goes on when it is given again.
    """
    from crysmetrics.errors import UserError
    from crysmetrics.io import write

    output = output or Path(f"{name_of(first)}-to-{name_of(last)}")
    with call.running(output) as model:
        from crysgen.kept_decodings import keeping
        from crysgen.latent import between
        from crysgen.latent import encode as encoded

        ends = []
        for path in (first, last):
            crystals = call.read(path)
            if len(crystals) > 1:
                raise UserError(f"{path} holds {len(crystals)} structures; an end is one.")
            ends.append(encoded(model, crystals)[0])
        width = len(str(points))
        ids = [f"{k + 1:0{width}d}" for k in range(points)]
        with keeping(output, call.overwrite) as kept:
            made = call.decode(model, between(ends[0], ends[1], points), ids, kept)
            write(made, output, overwrite=call.overwrite)
    for crystal in made:
        call.tell(f"{crystal.ids[0]}: {_formula(crystal)}")
    call.tell(f"{len(made)} crystals in {output}.")


def _formula(crystal: Crystals) -> str:
    from crysgen.compositions.formulas import Formula

    return str(Formula.of_atoms(crystal.atomic_numbers))
