"""Commands on features: featurize, cache."""

from __future__ import annotations

import click

from crysmetrics.cli.options import cache_option, listed, refuse_other_ending, user_errors
from crysmetrics.cli.request import EVERYTHING, Request, requested
from crysmetrics.console import echo
from crysmetrics.features.registry import FEATURES, get_extractor


@click.command()
@click.argument("source", metavar="IN")
@click.option("-o", "--output", required=True, metavar="FILE.npz", help="Write the arrays here.")
@click.option(
    "--features",
    default="crystalnn,magpie",
    show_default=True,
    metavar="LIST",
    help=f"Compute these features, comma-separated: {', '.join(FEATURES)}.",
)
@requested(run=EVERYTHING, output=("quiet", "overwrite"))
def featurize(source: str, output: str, features: str, request: Request) -> None:
    """Write features as arrays named after them, with `ids` beside them.

    Rows are the structures that could be read, in order; a structure whose features failed has
    a row of NaN, and all failures are named on standard error and in `failures`.
    """
    import json

    import numpy as np

    from crysmetrics.evaluation import as_sample
    from crysmetrics.io.atomic import atomic_file

    refuse_other_ending(output, ".npz", "Features")
    names = listed(features, "--features")
    extractors = {name: get_extractor(name, request.run) for name in names}
    request.check_outputs(output)
    with request.progress():
        sample = as_sample(source, "gen", request.run)
        arrays = {name: sample.features(name).values for name in names}
    failures = [*sample.crystals.failures, *sample.failed_features()]
    for name, extractor in extractors.items():
        arrays[f"{name}_labels"] = np.array(extractor.labels, dtype=np.str_)
    versions = {n: {"version": e.version, "hash": e.hash} for n, e in extractors.items()}
    with atomic_file(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            ids=np.array(sample.crystals.ids, dtype=np.str_),
            failures=np.array(failures, dtype=np.str_).reshape(-1, 2),
            extractors=np.array(json.dumps(versions)),
            **arrays,  # type: ignore[arg-type]
        )
    for name, reason in failures:
        echo(f"failed: {name}: {reason}", err=True)
    if not request.quiet:
        echo(f"Features of {len(sample):,} structures are in {output}.")


@click.group()
def cache() -> None:
    """Show and empty the cache of features."""


@cache.command()
@cache_option
@user_errors
def info(cache: str | None) -> None:
    """Say where the cache is, how large, and what is in it."""
    from crysmetrics.features.cache import open_cache

    opened = open_cache(cache)
    if opened is None:
        echo("The cache is off.")
        return
    found = opened.info()
    echo(f"{found.path}: {found.size / 1e6:.1f} MB of at most {opened.max_bytes / 1e6:.0f}")
    for name, count in sorted(found.entries.items()):
        echo(f"  {name}: {count:,} structures")


@cache.command()
@cache_option
@user_errors
def clear(cache: str | None) -> None:
    """Remove all cached features."""
    from crysmetrics.features.cache import open_cache

    opened = open_cache(cache)
    if opened is None:
        echo("The cache is off.")
        return
    opened.clear()
    echo(f"{opened.path} is empty.")
