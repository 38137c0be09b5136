"""Commands on named references: reference build, reference list."""

from __future__ import annotations

import click

from crysmetrics.cli.options import listed, user_errors
from crysmetrics.cli.request import EVERYTHING, Request, requested
from crysmetrics.console import echo
from crysmetrics.features.registry import FEATURES, get_extractor


@click.group()
def reference() -> None:
    """List and build named references: sets with their features, to be given as REF."""


@reference.command()
@click.argument("name")
@click.argument("ref", metavar="REF")
@click.option(
    "--features",
    default="crystalnn",
    show_default=True,
    metavar="LIST",
    help=f"Compute these features now and store them, comma-separated: {', '.join(FEATURES)}.",
)
@click.option(
    "--source", default="", metavar="TEXT", help="Note the source of the data, and its licence."
)
@requested(run=EVERYTHING, output=("quiet", "overwrite"))
def build(name: str, ref: str, features: str, source: str, request: Request) -> None:
    """Store the structures REF and their features under NAME."""
    from crysmetrics import references
    from crysmetrics.evaluation import as_sample

    wanted = listed(features, "--features")
    for feature in wanted:
        get_extractor(feature, request.run)
    with request.progress():
        sample = as_sample(ref, "ref", request.run)
        path = references.build(name, sample, wanted, source=source, overwrite=request.overwrite)
    for failure in (*sample.crystals.failures, *sample.failed_features()):
        echo(f"failed: {failure[0]}: {failure[1]}", err=True)
    if not request.quiet:
        echo(f"{name}: {len(sample):,} structures in {path}.")


@reference.command("list")
@user_errors
def list_references() -> None:
    """List the names of references, and what is in them."""
    from crysmetrics import references

    found = references.listing()
    if not found:
        echo("There are no named references; make one with: crysmetrics reference build")
    for info in found:
        features = ", ".join(info.features)
        echo(f"{info.name}: {info.structures:,} structures; {features}. {info.source}")
