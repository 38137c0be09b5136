"""The `crysgen` command."""

from __future__ import annotations

import click

from crysmetrics._version import __version__
from crysmetrics.cli.lazy import LazyGroup

_COMMANDS = {
    "sample": "crysgen.cli.sample",
    "train": "crysgen.cli.train",
    "noise": "crysgen.cli.noise",
    "explore": "crysgen.cli.explore",
    "reconstruct": "crysgen.cli.latent",
    "encode": "crysgen.cli.latent",
    "interpolate": "crysgen.cli.latent",
    "optimize": "crysgen.cli.optimize",
    "models": "crysgen.cli.models",
    "library": "crysgen.cli.library",
    "wyckoff": "crysgen.cli.wyckoff",
}


@click.group(
    cls=LazyGroup,
    commands_in=_COMMANDS,
    program="crysgen",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, package_name="crysmetrics")
def main() -> None:
    """Generate crystals of an exact composition.

    `crysgen sample --composition Li2O -n 16 -o out/` is where most begin.
    """
