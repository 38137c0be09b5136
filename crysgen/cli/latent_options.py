"""Options and actions that `reconstruct`, `encode`, `interpolate` and `optimize` share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crysgen.cli.options import batch_size_option, model_option
from crysgen.config_values import MOST_STEPS
from crysmetrics.cli.options import (
    Command,
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
    from crysgen.kept_decodings import KeptDecodings
    from crysgen.latent import Vectors
    from crysmetrics.io import Crystals

AT_LEAST_ONE = click.IntRange(min=1)
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER|FILE",
    help="Write a folder of CIFs; or one .zip, .extxyz or .npz.",
)
_SHARED = (
    id_column_option,
    cif_column_option,
    model_option,
    device_option,
    workers_option,
    quiet_option,
    overwrite_option,
)


@dataclass(frozen=True)
class LatentCall:
    """The shared options of one call, and what all of these commands do with them.

    Attributes:
        id_column, cif_column, workers: how structures are read.
        model, device: which model, and where it computes.
        quiet, overwrite: as given.
        steps: of the decoder; its own number if None.
        batch_size: crystals decoded together; None finds it.
        seed: of decoding.
    """

    id_column: str | None
    cif_column: str | None
    model: str | None
    device: str
    workers: int | None
    quiet: bool
    overwrite: bool
    steps: int | None = None
    batch_size: int | None = None
    seed: int = 0

    @contextmanager
    def running(self, output: Path) -> Iterator[Any]:
        """Refuse an output that exists, then load the model, and show progress."""
        from crysmetrics.io.atomic import refuse_existing
        from crysmetrics.packages import require

        refuse_existing(output, self.overwrite)
        require("torch", "torch", "The latent space of a model")
        from crysgen.latent import load_autoencoder
        from crysmetrics.device import torch_device

        with progress(self.quiet):
            yield load_autoencoder(self.model, torch_device(self.device))

    def read(self, path: str) -> Crystals:
        """Read structures in the cells that models are trained on; say which have none."""
        from crysgen.requests import read_structures
        from crysgen.training.data import canonical
        from crysmetrics.errors import InputError

        found = canonical(read_structures(path, self.workers, self.id_column, self.cif_column))
        for failure in found.failures:
            echo(f"left out: {failure.file}: {failure.reason}", err=True)
        if not len(found):
            raise InputError(f"{path} holds no structure that can be used.")
        return found.with_failures(())

    def decode(
        self,
        model: Any,
        latents: Vectors,
        ids: Sequence[str],
        kept: KeptDecodings,
        title: str = "Decoding",
    ) -> Crystals:
        """Decode latent vectors that no earlier call has; say what could not be made."""
        from crysgen.latent import decode

        made = decode(
            model,
            latents,
            ids,
            seed=self.seed,
            steps=self.steps,
            workers=self.workers,
            batch_size=self.batch_size,
            title=title,
            kept=kept,
        )
        for failure in made.failures:
            echo(f"not made: {failure.file}: {failure.reason}", err=True)
        return made

    def tell(self, text: str) -> None:
        """Print a sentence, unless quiet."""
        if not self.quiet:
            echo(text)


def name_of(path: str) -> str:
    """Return what an output is named after an input: the name before its endings."""
    return Path(path).resolve().name.split(".")[0] or "structures"


def latent_options(decoder_steps: str | None = None) -> Callable[[Command], Command]:
    """Give a command the shared options; it gets them as `call`, and user errors are caught.

    Args:
        decoder_steps: name of the option for steps of the decoder; None where nothing is decoded.
    """
    options = list(_SHARED)
    if decoder_steps is not None:
        steps = click.option(
            decoder_steps,
            "steps",
            type=click.IntRange(1, MOST_STEPS),
            metavar="N",
            help="Let the decoder take N steps; the model's own number by default.",
        )
        options = [steps, *options, batch_size_option, seed_option]
    names = {declared.name for declared in fields(LatentCall)}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapped(**given: Any) -> Any:
            shared = {name: given.pop(name) for name in names & given.keys()}
            return command(call=LatentCall(**shared), **given)

        decorated = user_errors(wrapped)
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
