"""Options that mean the same in every command of crysgen."""

from __future__ import annotations

import logging

import click

model_option = click.option(
    "--model",
    metavar="NAME|PATH",
    help="A model that `crysgen models` lists, a .safetensors file or a training run.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Where networks run: auto, cpu or cuda.",
)


class BatchSize(click.ParamType):
    """`auto` or a number."""

    name = "batch size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """None for auto."""
        if value == "auto" or value is None:
            return None
        if str(value).isdecimal() and int(str(value)) > 0:
            return int(str(value))
        self.fail(f"{value!r} is neither auto nor a positive number.", param, ctx)


batch_size_option = click.option(
    "--batch-size",
    type=BatchSize(),
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Structures made together; halved where memory runs out.",
)


def hush(quiet: bool) -> None:
    """Only warnings, where quiet is asked for."""
    if quiet:
        logging.getLogger("crysgen").setLevel(logging.WARNING)
