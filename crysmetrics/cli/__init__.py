"""The `crysmetrics` command."""

from __future__ import annotations

from importlib import import_module

import click

from crysmetrics._version import __version__

_COMMANDS = {
    "evaluate": "crysmetrics.cli.evaluate",
    "compare": "crysmetrics.cli.compare",
    "rank": "crysmetrics.cli.compare",
    "validity": "crysmetrics.cli.evaluation",
    "emd": "crysmetrics.cli.evaluation",
    "coverage": "crysmetrics.cli.evaluation",
    "fad": "crysmetrics.cli.fad",
    "energy": "crysmetrics.cli.fad",
    "frechet": "crysmetrics.cli.evaluation",
    "diversity": "crysmetrics.cli.evaluation",
    "match": "crysmetrics.cli.match",
    "featurize": "crysmetrics.cli.features",
    "convert": "crysmetrics.cli.structures",
    "cache": "crysmetrics.cli.features",
    "reference": "crysmetrics.cli.references",
    "demo": "crysmetrics.cli.demo",
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
    """Metrics for generative models of crystals.

    GEN and REF are folders of CIF files, .zip or .tar.gz of them, CSV files with a cif column,
    extended XYZ, JSON of pymatgen structures, .npz, or the name of a reference.
    """
