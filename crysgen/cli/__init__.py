"""The `crysgen` command."""

from __future__ import annotations

from importlib import import_module

import click

from crysmetrics._version import __version__

_COMMANDS = {
    "sample": "crysgen.cli.sample",
    "train": "crysgen.cli.train",
    "noise": "crysgen.cli.noise",
    "models": "crysgen.cli.models",
    "library": "crysgen.cli.library",
}


class _LazyGroup(click.Group):
    """Imports a command's module when it is named, so that --help answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(import_module(module), cmd_name)
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="crysmetrics")
def main() -> None:
    """Generate crystals of an exact composition.

    `crysgen sample --composition Li2O -n 16 -o out/` is where most begin.
    """
