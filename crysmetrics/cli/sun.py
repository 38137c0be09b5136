"""`crysmetrics sun`: stable, unique, novel and symmetric at once."""

from __future__ import annotations

from dataclasses import replace

import click

from crysmetrics.cli.options import energies_option, gen_argument, train_argument
from crysmetrics.cli.request import READING, WITH_TABLE, Request, requested
from crysmetrics.cli.stability import agree_option, hull_option, stability_settings


@click.command()
@gen_argument
@train_argument
@energies_option
@click.option(
    "--potential",
    "potentials",
    metavar="LIST",
    help="Relax GEN with these potentials for energies: chgnet, 7net-0, ... (see stability).",
)
@agree_option
@hull_option
@requested(run=("device", "cache", *READING), settings=("tolerances",), output=WITH_TABLE)
def sun(
    gen: str,
    train: str,
    energies: str | None,
    potentials: str | None,
    agree: bool,
    hull: str | None,
    request: Request,
) -> None:
    """Compute the shares of stable, unique, novel and symmetric structures, and of combinations.

    Stable structures lie on the convex hull (e_above_hull <= 0), metastable ones at most 0.1
    eV/atom above it. Energies are those of --energies, such as crysmetrics stability
    --per-structure writes, of --potential, or of a column or property e_above_hull of GEN. A
    structure without one counts as not stable.
    """
    from crysmetrics.errors import UserError
    from crysmetrics.evaluation import as_sample, with_energies_of
    from crysmetrics.metrics.registry import find_measures
    from crysmetrics.metrics.sun import has_energies, without_energies

    if energies is not None and potentials is not None:
        raise UserError("Give --energies or --potential, not both.")
    if potentials is None and (agree or hull is not None):
        raise UserError("--agree and --hull go with --potential.")
    request.check_outputs()
    run = request.run
    if potentials is not None:
        run = replace(run, stability=stability_settings(potentials, agree, True, hull))
    with request.progress():
        if energies is None:
            sample = as_sample(gen, "gen", run)
        else:
            sample = with_energies_of(gen, energies, run)
    measures, keys = ["uniqueness", "symmetric_share", "novelty", "sun"], None
    if has_energies(sample):
        measures.insert(0, "stability")
    else:
        declared = [m.key for measure in find_measures(measures) for m in measure.metrics]
        keys = [key for key in declared if key not in without_energies()]
    asked = replace(request, run=run)
    request.show(asked.evaluate(measures, sample, train=train, metrics=keys))
