"""`crysgen noise`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    from crysgen.models.base import Noises
    from crysmetrics.io import Crystals

_AT_ONCE = 256


@click.command()
@click.argument("ref", metavar="REF")
@click.option(
    "--step",
    "steps",
    multiple=True,
    required=True,
    metavar="T",
    help="Noise to these steps of the forward process, from 0 to the model's last: 0,100,200.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER|FILE",
    help="Write the noised structures here.",
)
@id_column_option
@cif_column_option
@model_option
@batch_size_option
@seed_option
@device_option
@workers_option
@quiet_option
@overwrite_option
@user_errors
def noise(
    ref: str,
    steps: tuple[str, ...],
    output: Path,
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
    """Add noise to structures, as a diffusion model does in training.

    One step is written as `crysmetrics convert` would: to a folder of CIFs, a .zip, .extxyz or
    .npz. Several make a folder of folders, one for each step, for which
    `crysmetrics fad OUT REF --by-folder NAME` draws the distance against the step.
    """
    from crysmetrics.packages import require

    require("torch", "torch", "Noising structures")
    from crysgen.checkpoints import load_model
    from crysgen.models.base import Noises
    from crysgen.requests import read_structures
    from crysmetrics.device import torch_device
    from crysmetrics.errors import UserError
    from crysmetrics.io import write
    from crysmetrics.io.atomic import atomic_folder, refuse_existing
    from crysmetrics.parallel import cpu_count, torch_threads

    wanted = parse_steps(steps)
    refuse_existing(output, overwrite)
    where = torch_device(device)
    with progress(quiet), torch_threads(cpu_count(workers)):
        process = load_model(model, where)
        if not isinstance(process, Noises):
            raise UserError(f"A model of kind {process.kind} has no forward process.")
        if max(wanted) > process.num_steps:
            raise UserError(f"This model has {process.num_steps} steps; {max(wanted)} is beyond.")
        crystals = read_structures(ref, workers, id_column, cif_column)
        made = noised(process, crystals, wanted, seed, where, batch_size or _AT_ONCE)
        if len(wanted) == 1:
            write(next(made)[1], output, overwrite=overwrite)
        else:
            _refuse_foreign(output)
            width = len(str(max(wanted)))
            with atomic_folder(output) as temporary:
                for step, noisy in made:
                    write(noisy, temporary / f"step-{step:0{width}d}")
    for failure in crystals.failures:
        echo(f"left out: {failure.file}: {failure.reason}", err=True)
    if not quiet:
        several = f" at each of {len(wanted)} steps" if len(wanted) > 1 else ""
        echo(f"{len(crystals):,} structures{several} written to {output}.")


def parse_steps(texts: Sequence[str]) -> list[int]:
    """Parse distinct steps, in ascending order.

    Raises:
        UserError: if something is no step.
    """
    from crysmetrics.errors import UserError

    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--step takes numbers such as 100 or 0,100,200; not {','.join(texts)!r}.")
    return sorted({int(part) for part in parts})


def noised(
    model: Noises,
    crystals: Crystals,
    steps: Sequence[int],
    seed: int,
    device: str,
    batch_size: int,
) -> Iterator[tuple[int, Crystals]]:
    """Noise crystals by each of some steps of the forward process.

    A crystal's noise follows from the seed, its composition and its id, so that it is the same
    whatever else is noised, and at every step the same noise in another strength.

    Args:
        model: on `device`.
        crystals: to be noised.
        steps: 0 to T.
        seed: of the noise.
        device: where the model is.
        batch_size: structures at once.
    """
    import numpy as np
    import torch

    from crysgen.requests import derived_seed
    from crysgen.training.batch import Batch
    from crysmetrics.io import Crystals as Packed
    from crysmetrics.progress import task

    order = np.argsort(crystals.num_atoms, kind="stable")
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    with task("Noising", len(steps) * len(crystals)) as advance:
        for step in steps:
            found = []
            for rows in parts:
                part = crystals[rows]
                atoms = [one.atomic_numbers for one in part]
                seeds = [
                    derived_seed(seed, numbers.tolist(), name)
                    for numbers, name in zip(atoms, part.ids, strict=True)
                ]
                batch = Batch.from_crystals(part, torch.float64).to(device)
                batch = model.noise(batch, step, seeds)
                found.append(batch.to_crystals(part.ids))
                advance(len(rows))
            back = np.argsort(order, kind="stable")
            yield step, Packed.concatenate(found)[back]


def _refuse_foreign(output: Path) -> None:
    """Refuse to replace a folder that no earlier call has made."""
    from crysmetrics.errors import UserError
    from crysmetrics.io.atomic import remove_left

    if not output.is_dir():
        return
    remove_left(output)
    others = [child.name for child in output.iterdir() if not child.name.startswith("step-")]
    if others:
        raise UserError(f"{output} holds other things than noised structures; not replaced.")
