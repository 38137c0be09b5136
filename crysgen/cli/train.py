"""`crysgen train`: one command for each kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crysgen.models import MODELS
from crysgen.training.configs import config_names
from crysmetrics.cli.options import (
    SEED,
    cif_column_option,
    device_option,
    id_column_option,
    overwrite_option,
    quiet_option,
    user_errors,
)
from crysmetrics.cli.sections import Option, SectionedCommand, with_options
from crysmetrics.console import echo
from crysmetrics.interrupts import answered_elsewhere

if TYPE_CHECKING:
    from crysgen.models.base import Model
    from crysgen.training.trainer import Trainer
    from crysmetrics.io import Crystals


class KindGroup(click.Group):
    """A group whose commands are the kinds of models, made when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the kinds of models, in the order of the table."""
        return list(MODELS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command that trains a kind of model."""
        return _command(cmd_name) if cmd_name in MODELS else None


@click.group(cls=KindGroup)
def train() -> None:
    """Train a generative model on your own structures."""


@dataclass(frozen=True)
class _Call:
    """Values of the options, which say what each means."""

    kind: str
    paths: tuple[str, ...]
    id_column: str | None
    cif_column: str | None
    val: str | None
    exchanged: int
    start: str | None
    folder: Path
    config: str
    max_atoms: int
    device: str
    devices: int
    precision: str
    compiled: bool
    graphs: bool | None
    resume: bool
    overwrite: bool
    quiet: bool


def _command(kind: str) -> click.Command:
    """Make the command of one kind of model."""
    sections = _sections(kind)

    @user_errors
    def run(**given: Any) -> None:
        names = _Call.__dataclass_fields__
        settings = {k: v for k, v in given.items() if k not in names and v is not None}
        _train(_Call(kind=kind, **{k: v for k, v in given.items() if k in names}), settings)

    run.__doc__ = f"""Train a model of kind {kind} on structures.

    The run is a folder. Its best.safetensors is the model with the lowest validation loss (give
    the folder to `crysgen sample --model`); log.csv has the losses, which TensorBoard shows too.
    After Ctrl-C or a kill, the same command with --resume goes on as if it had not been stopped.
    """
    make = click.command(name=kind, cls=SectionedCommand, sections=sections)
    made: click.Command = make(with_options(run, sections))
    return made


def _sections(kind: str) -> dict[str, Sequence[Option]]:
    """List the options of the command of a kind of model, under the titles of its help."""
    path = click.Path(path_type=Path)
    positive = click.FloatRange(min=0, min_open=True)
    number = click.IntRange(min=1)
    names = ", ".join(config_names(kind))
    shown: dict[str, Any] = {"show_default": True}
    data = [
        click.option(
            "--data",
            "paths",
            multiple=True,
            required=True,
            metavar="PATH",
            help="Train on these structures, in anything that crysmetrics reads; repeatable.",
        ),
        click.option(
            "--val",
            metavar="PATH",
            help="Choose the best weights by the loss on these structures. By default on those of "
            "--data whose property `split` is val, or else on a twentieth of them.",
        ),
        click.option(
            "--max-atoms",
            type=number,
            default=20,
            metavar="N",
            help="Leave out structures of more atoms.",
            **shown,
        ),
        click.option(
            "--exchanged",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Also train on at most N made-up crystals: known ones with one element exchanged "
            "for a similar one, where known crystals suggest the same result; up to four times "
            "where many do. Known crystals are then repeated, so that they are a third of all.",
            **shown,
        ),
        id_column_option,
        cif_column_option,
    ]
    run = [
        click.option(
            "-o",
            "--output",
            "folder",
            type=path,
            required=True,
            metavar="FOLDER",
            help="Keep the run in this folder.",
        ),
        click.option(
            "--config",
            default="default",
            metavar="NAME|FILE",
            help=f"Take the settings of a configuration ({names}), or those of a JSON file.",
            **shown,
        ),
        click.option(
            "--start",
            metavar="MODEL",
            help="Begin with the weights and the configuration of this model: a name, a run or a "
            "file.",
        ),
        click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the run."),
        overwrite_option,
        quiet_option,
    ]
    settings = [
        click.option("--minutes", type=positive, metavar="X", help="Train for X minutes."),
        click.option("--steps", type=number, metavar="N", help="Train for N optimiser steps."),
        click.option(
            "--epochs", type=number, metavar="N", help="Train for N passes over the data."
        ),
        click.option(
            "--batch-atoms", type=number, metavar="N", help="Make batches of at most N atoms."
        ),
        click.option(
            "--learning-rate", type=positive, metavar="X", help="Rise to this learning rate."
        ),
        click.option(
            "--ema",
            type=click.FloatRange(0, 1, max_open=True),
            metavar="X",
            help="Average the weights over the last steps with this decay; 0 for no average.",
        ),
        click.option(
            "--seed",
            type=SEED,
            metavar="N",
            help="Seed the first weights, the order of structures, and noise.",
        ),
    ]
    device = [
        device_option,
        click.option(
            "--devices", type=number, default=1, metavar="N", help="Train on N GPUs.", **shown
        ),
        click.option(
            "--precision",
            type=click.Choice(["32-true", "bf16-mixed", "16-mixed", "64-true"]),
            default="32-true",
            help="Compute with these floating-point numbers; 32-true uses TF32 on a GPU.",
            **shown,
        ),
        click.option(
            "--compile", "compiled", is_flag=True, help="Compile the network with torch.compile."
        ),
        click.option(
            "--graphs/--no-graphs",
            default=None,
            help="Record each training step as a CUDA graph, or don't; by default on one GPU, for "
            "models that support it.",
        ),
    ]
    return {
        "Data": data,
        "Run": run,
        "Settings in place of the configuration's": settings,
        "Device": device,
    }


def _train(call: _Call, settings: dict[str, Any]) -> None:
    """Read the data, train, and end with the status of the signal that stopped it."""
    from contextlib import nullcontext

    from crysmetrics.packages import require
    from crysmetrics.progress import show_progress

    require("torch", "train", "Training")
    with nullcontext() if call.quiet else show_progress():
        trainer = _trainer(call, settings)
        if trainer.fabric.is_global_zero and not call.quiet:
            weights = sum(p.numel() for p in trainer.model.parameters())
            echo(
                f"{len(trainer.train)} crystals to train on, {len(trainer.val)} to select by; "
                f"{weights / 1e6:.2f} million weights on {trainer.fabric.device}.",
                err=True,
            )
        with answered_elsewhere():  # the trainer finishes its step
            stopped = trainer.run(show=not call.quiet)
    if stopped is not None:
        echo(
            f"Stopped after step {trainer.step}; go on with the same command and --resume.",
            err=True,
        )
        raise click.exceptions.Exit(128 + stopped)


def _trainer(call: _Call, settings: dict[str, Any]) -> Trainer:
    """Open a run on its data, at its beginning or where it was left."""
    from crysgen.checkpoints import model_identity
    from crysgen.models import model_class
    from crysgen.training.configs import load_config
    from crysgen.training.data import training_sets
    from crysgen.training.fabric import launch
    from crysgen.training.trainer import Trainer

    config, chosen = load_config(call.kind, call.config, settings)
    _prepare_folder(call.folder, call.resume, call.overwrite)
    crystals, selection = training_sets(
        call.paths,
        call.val,
        call.max_atoms,
        seed=chosen.seed,
        id_column=call.id_column,
        cif_column=call.cif_column,
    )
    start = _start(call)
    facts: dict[str, Any] = {}
    if start is not None:
        facts["begun_from"] = model_identity(call.start)
    if call.exchanged:
        facts["known_crystals"] = len(crystals)
        crystals = _extended(crystals, call.exchanged)
    fabric = launch(call.device, call.devices, call.precision, loggers=_loggers(call.folder))
    trainer = Trainer(
        model_class(call.kind),
        config,
        chosen,
        call.folder,
        crystals,
        selection,
        facts,
        fabric=fabric,
        compiled=call.compiled,
        graphs=call.graphs,
        start=start,
    )
    if call.resume:
        trainer.resume()
    return trainer


def _start(call: _Call) -> Model | None:
    """Read the model that the run begins with, if there is one."""
    from crysgen.checkpoints import load_model
    from crysmetrics.errors import UserError

    if call.start is None:
        return None
    model = load_model(call.start)
    if model.kind != call.kind:
        raise UserError(f"{call.start} is a model of kind {model.kind}, not {call.kind}.")
    return model


def _extended(crystals: Crystals, most: int) -> Crystals:
    """Add crystals with exchanged elements."""
    from crysgen.training.substitutions import exchanges, extended

    found = exchanges(crystals, most)
    repeats = max(1, round(found.copies.sum() / (2 * len(crystals))))
    return extended(crystals, found, most, repeats)


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
    """Make TensorBoard's logger, where it is installed."""
    from importlib.util import find_spec

    if find_spec("tensorboard") is None and find_spec("tensorboardX") is None:
        return None
    from lightning_fabric.loggers import TensorBoardLogger

    return TensorBoardLogger(root_dir=folder, name="tensorboard")
