"""`crysgen reconstruct`, `encode` and `interpolate`: the latent space of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crysgen.cli.options import batch_size_option, model_option
from crysmetrics.cli.options import (
    cif_column_option,
    device_option,
    id_column_option,
    overwrite_option,
    progress,
    quiet_option,
    seed_option,
    user_errors,
    workers_option,
)
from crysmetrics.console import echo

if TYPE_CHECKING:
    from crysmetrics.io import Crystals

number = click.IntRange(min=1)
_output_help = "A folder of CIFs, or a .zip, .extxyz or .npz."
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER|FILE",
    help=_output_help,
)
steps_option = click.option("--steps", type=number, help="Of the decoder; all by default.")
_COMMON = (
    model_option,
    batch_size_option,
    seed_option,
    device_option,
    workers_option,
    quiet_option,
    overwrite_option,
)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that all of these have."""
    for option in reversed(_COMMON):
        command = option(command)
    return command


def autoencoder_of(name: str | None, device: str) -> Any:
    """Load the model, on the device that is meant."""
    from crysmetrics.packages import require

    require("torch", "torch", "The latent space of a model")
    from crysgen.latent import load_autoencoder
    from crysmetrics.device import torch_device

    return load_autoencoder(name, torch_device(device))


def structures_of(
    path: str, workers: int | None, id_column: str | None = None, cif_column: str | None = None
) -> Crystals:
    """Read structures in the cells that models are trained on; say which have none."""
    from crysgen.requests import read_structures
    from crysgen.training.data import canonical
    from crysmetrics.errors import InputError

    found = canonical(read_structures(path, workers, id_column, cif_column))
    for failure in found.failures:
        echo(f"left out: {failure.file}: {failure.reason}", err=True)
    if not len(found):
        raise InputError(f"{path} holds no structure that can be used.")
    return found.with_failures(())


def check_steps(model: Any, steps: int | None) -> None:
    """Refuse more steps than a model has."""
    from crysmetrics.errors import UserError

    if (steps or 0) > model.num_steps:
        raise UserError(f"This model has {model.num_steps} steps; {steps} is beyond.")


def tell_failures(made: Crystals) -> None:
    """Name what could not be made."""
    for failure in made.failures:
        echo(f"not made: {failure.file}: {failure.reason}", err=True)


@click.command()
@click.argument("structures", metavar="IN")
@output_option
@click.option(
    "-n",
    "--num-samples",
    "count",
    type=number,
    default=1,
    show_default=True,
    help="Decodings of each structure.",
)
@steps_option
@id_column_option
@cif_column_option
@common_options
@user_errors
def reconstruct(
    structures: str,
    output: Path,
    count: int,
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
    """Encode structures and decode them again.

    Each keeps its name, so that `crysmetrics match OUT IN` says how many came back; with -n
    several, names end in -1, -2, ... A command that was interrupted goes on when it is given again.
    """
    from crysmetrics.io import write
    from crysmetrics.io.atomic import refuse_existing

    refuse_existing(output, overwrite)
    with progress(quiet):
        autoencoder = autoencoder_of(model, device)
        check_steps(autoencoder, steps)
        crystals = structures_of(structures, workers, id_column, cif_column)
        from crysgen.kept_decodings import keeping
        from crysgen.latent import decode, encode

        vectors, ids = encode(autoencoder, crystals), list(crystals.ids)
        if count > 1:
            vectors = vectors.repeat(count, axis=0)
            ids = [f"{name}-{k + 1}" for name in ids for k in range(count)]
        with keeping(output, overwrite) as kept:
            made = decode(
                autoencoder, vectors, ids, seed=seed, steps=steps, workers=workers,
                batch_size=batch_size, title="Reconstructing", kept=kept,
            )  # fmt: skip
            write(made, output, overwrite=overwrite)
    tell_failures(made)
    if not quiet:
        echo(f"{len(made):,} reconstructions of {len(crystals):,} structures in {output}.")


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
@id_column_option
@cif_column_option
@model_option
@device_option
@workers_option
@quiet_option
@overwrite_option
@user_errors
def encode(
    structures: str,
    output: Path,
    id_column: str | None,
    cif_column: str | None,
    model: str | None,
    device: str,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Write the latent vectors of structures.

    The .npz holds `ids`, `latents` (one row each), `num_atoms` as predicted from them, and the
    property that the model predicts, if any, under its name. Structures are brought to primitive
    Niggli cells first, so that the choice of a cell plays no part.
    """
    from crysmetrics.io.atomic import refuse_existing

    refuse_existing(output, overwrite)
    with progress(quiet):
        autoencoder = autoencoder_of(model, device)
        crystals = structures_of(structures, workers, id_column, cif_column)
        from crysgen.latent import encode as encoded
        from crysgen.latent import save_latents

        vectors = encoded(autoencoder, crystals)
        save_latents(autoencoder, vectors, crystals.ids, output)
    if not quiet:
        echo(f"{len(vectors):,} vectors of {vectors.shape[1]} numbers in {output}.")


@click.command()
@click.argument("first", metavar="A")
@click.argument("last", metavar="B")
@click.option(
    "--steps",
    "points",
    type=click.IntRange(min=2),
    default=8,
    show_default=True,
    help="Crystals on the way, both ends included.",
)
@click.option("--decoder-steps", type=number, help="Of the decoder; all by default.")
@output_option
@common_options
@user_errors
def interpolate(
    first: str,
    last: str,
    points: int,
    decoder_steps: int | None,
    output: Path,
    model: str | None,
    batch_size: int | None,
    seed: int,
    device: str,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Decode crystals on a straight way between two structures in latent space."""
    from crysmetrics.errors import UserError
    from crysmetrics.io import write
    from crysmetrics.io.atomic import refuse_existing

    refuse_existing(output, overwrite)
    with progress(quiet):
        autoencoder = autoencoder_of(model, device)
        check_steps(autoencoder, decoder_steps)
        from crysgen.kept_decodings import keeping
        from crysgen.latent import between, decode
        from crysgen.latent import encode as encoded

        ends = []
        for path in (first, last):
            crystals = structures_of(path, workers)
            if len(crystals) > 1:
                raise UserError(f"{path} holds {len(crystals)} structures; an end is one.")
            ends.append(encoded(autoencoder, crystals)[0])
        vectors = between(ends[0], ends[1], points)
        width = len(str(points))
        ids = [f"{k + 1:0{width}d}" for k in range(points)]
        with keeping(output, overwrite) as kept:
            made = decode(
                autoencoder, vectors, ids, seed=seed, steps=decoder_steps, workers=workers,
                batch_size=batch_size, kept=kept,
            )  # fmt: skip
            write(made, output, overwrite=overwrite)
    tell_failures(made)
    if not quiet:
        for crystal in made:
            echo(f"{crystal.ids[0]}: {_formula(crystal)}")
        echo(f"{len(made)} crystals in {output}.")


def _formula(crystal: Crystals) -> str:
    from crysgen.compositions.formulas import Formula

    return str(Formula.of_atoms(crystal.atomic_numbers))
