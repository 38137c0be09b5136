"""The `crysmetrics` command."""

from __future__ import annotations

import click

from crysmetrics._version import __version__
from crysmetrics.cli.lazy import LazyGroup
from crysmetrics.metrics.registry import family_names

_COMMANDS = {
    "evaluate": "crysmetrics.cli.evaluate",
    "compare": "crysmetrics.cli.compare",
    "rank": "crysmetrics.cli.compare",
    **{name.replace("_", "-"): "crysmetrics.cli.families" for name in family_names()},
    "fad": "crysmetrics.cli.fad",
    "match": "crysmetrics.cli.match",
    "sun": "crysmetrics.cli.sun",
    "energy": "crysmetrics.cli.fad",
    "stability": "crysmetrics.cli.stability",
    "relax": "crysmetrics.cli.relax",
    "hull": "crysmetrics.cli.hull",
    "featurize": "crysmetrics.cli.features",
    "convert": "crysmetrics.cli.structures",
    "cache": "crysmetrics.cli.features",
    "reference": "crysmetrics.cli.references",
    "demo": "crysmetrics.cli.demo",
}


@click.group(
    cls=LazyGroup,
    commands_in=_COMMANDS,
    program="crysmetrics",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, package_name="crysmetrics")
def main() -> None:
    """Measure how good generated crystals are.

    GEN and REF are folders of CIF, POSCAR or extended XYZ files, .zip or .tar.gz of them, single
    files of these, CSV with a column of CIFs, JSON, .pt of CDVAE and DiffCSP, .npz, or the name of
    a reference. `crysmetrics convert --help` lists all formats.
    """
