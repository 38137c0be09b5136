"""`crysgen train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crysmetrics.cli.options import overwrite_option, quiet_option, user_errors


@click.group()
def train() -> None:
    """Train a generator."""


@train.command()
@click.option(
    "--data",
    "paths",
    multiple=True,
    required=True,
    metavar="PATH",
    help="Structures to train on: anything that is read, or packed by crysgen.data; repeatable.",
)
@click.option("--val", metavar="PATH", help="Structures to select by; else what is marked `val`.")
@click.option(
    "-o", "--output", "folder", type=click.Path(path_type=Path), required=True, help="The run."
)
@click.option(
    "--config", default="default", show_default=True, help="default, paper, gpu, or a JSON file."
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Budget by the clock.")
@click.option("--steps", type=click.IntRange(min=1), help="Budget in steps of the optimiser.")
@click.option("--epochs", type=click.IntRange(min=1), help="Budget in epochs.")
@click.option("--batch-atoms", type=click.IntRange(min=1), help="Atoms of a batch.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True))
@click.option("--ema", type=click.FloatRange(0, 1, max_open=True), help="Decay of the average.")
@click.option("--seed", type=click.IntRange(min=0), help="Of weights, order and noise.")
@click.option(
    "--max-atoms",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Larger structures are left out.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option("--devices", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--precision",
    type=click.Choice(["32-true", "bf16-mixed", "16-mixed", "64-true"]),
    default="32-true",
    show_default=True,
    help="32-true uses TF32 on a GPU.",
)
@click.option("--compile", "compiled", is_flag=True, help="With torch.compile.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the run.")
@overwrite_option
@quiet_option
@user_errors
def gemsdiff(
    paths: tuple[str, ...],
    val: str | None,
    folder: Path,
    config: str,
    max_atoms: int,
    device: str,
    devices: int,
    precision: str,
    compiled: bool,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    **chosen: Any,
) -> None:
    """Train GemsDiff on structures.

    The run is a folder: best.safetensors is the model with the lowest validation loss (give the
    folder to `crysgen sample --model`), log.csv its history; TensorBoard reads it too.
    """
    from contextlib import nullcontext

    from crysmetrics.packages import require

    require("torch", "train", "Training")
    from crysgen.configs import load_config
    from crysgen.data import training_sets
    from crysgen.training import Trainer, launch
    from crysmetrics.progress import show_progress

    given = {name: value for name, value in chosen.items() if value is not None}
    model, settings = load_config(config, given)
    _prepare_folder(folder, resume, overwrite)
    with nullcontext() if quiet else show_progress():
        crystals, selection = training_sets(paths, val, max_atoms, seed=settings.seed)
        fabric = launch(device, devices, precision, loggers=_loggers(folder))
        trainer = Trainer(
            model, settings, folder, crystals, selection, fabric=fabric, compiled=compiled
        )
        if resume:
            trainer.resume()
        if fabric.is_global_zero and not quiet:
            weights = sum(p.numel() for p in trainer.model.network.parameters())
            click.echo(
                f"{len(crystals)} crystals to train on, {len(selection)} to select by; "
                f"{weights / 1e6:.2f} million weights on {fabric.device}.",
                err=True,
            )
        try:
            trainer.run(show=not quiet)
        except KeyboardInterrupt:
            trainer.save()
            click.echo(f"Interrupted; go on with: --resume -o {folder}", err=True)
            raise click.exceptions.Exit(130) from None


def _prepare_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    import shutil

    from crysmetrics.errors import UserError
    from crysmetrics.io.atomic import refuse_existing
    from crysmetrics.training_state import STATE

    if resume:
        return
    held = folder / STATE
    if overwrite and held.is_file():
        shutil.rmtree(folder)  # only what is a run of ours
    elif held.is_file():
        raise UserError(f"{folder} holds a run; give --resume to go on, or --overwrite.")
    refuse_existing(folder)


def _loggers(folder: Path) -> Any:
    """TensorBoard's, where it is installed."""
    from importlib.util import find_spec

    if find_spec("tensorboard") is None and find_spec("tensorboardX") is None:
        return None
    from lightning_fabric.loggers import TensorBoardLogger

    return TensorBoardLogger(root_dir=folder, name="tensorboard")
