"""The `crysgen` command."""

from __future__ import annotations

import click

from crysmetrics._version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, package_name="crysmetrics")
def main() -> None:
    """Generate crystals of an exact composition.

    This version holds no generator yet: the commands `train`, `sample` and `noise` come with
    the first one.
    """
