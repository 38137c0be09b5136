"""`crysmetrics stability`: how many structures are stable against known phases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crysmetrics.cli.options import Finite, listed
from crysmetrics.cli.request import READING, WITH_TABLE, Request, requested

if TYPE_CHECKING:
    from crysmetrics.above_hull import StabilitySettings

potentials_option = click.option(
    "--potential",
    "potentials",
    default="chgnet",
    show_default=True,
    metavar="LIST",
    help="Relax with these, comma-separated: chgnet, 7net-0, 7net-l3i5; each relaxes what the one "
    "before left. All were trained on the Materials Project.",
)
agree_option = click.option(
    "--agree", is_flag=True, help="Call stable what all potentials call stable."
)
hull_option = click.option(
    "--hull",
    metavar="FILE.npz",
    help="Take known phases from `crysmetrics hull build`; the Materials Project's by default.",
)

steps_option = click.option(
    "--steps-per-sample",
    type=Finite(min=0, min_open=True),
    metavar="X",
    help="Compute stability_cost from the sampling steps that a structure took; by default from "
    "those that a samples.csv in GEN states.",
)


def stability_settings(
    potentials: str, agree: bool, relaxed: bool, hull: str | None
) -> StabilitySettings:
    """Make the settings that these options ask for."""
    from crysmetrics.above_hull import StabilitySettings
    from crysmetrics.errors import UserError

    names = tuple(listed(potentials, "--potential"))
    if agree and len(names) < 2:
        raise UserError("--agree needs two potentials, such as --potential chgnet,7net-0.")
    settings = StabilitySettings(names, agree, relaxed, None if hull is None else Path(hull))
    settings.identity()
    return settings


@click.command()
@click.argument("gen", metavar="IN")
@potentials_option
@agree_option
@click.option(
    "--relax/--no-relax",
    "relaxed",
    default=True,
    show_default=True,
    help="Relax structures first, or take their energies as they stand.",
)
@hull_option
@steps_option
@click.option(
    "--histogram",
    "histogram_path",
    metavar="FILE",
    help="Draw energies above the hull (CrysLDM, Figure 2) as .png, .svg or .pdf.",
)
@requested(run=("device", "cache", *READING), output=WITH_TABLE)
def stability(
    gen: str,
    potentials: str,
    agree: bool,
    relaxed: bool,
    hull: str | None,
    steps_per_sample: float | None,
    histogram_path: str | None,
    request: Request,
) -> None:
    """Compute the share of structures that are stable against decomposition into known phases.

    Structures are relaxed by a potential and compared with the convex hull of known phases of the
    Materials Project. stable_rate is the share on or below the hull, metastable_rate the share at
    most 0.1 eV/atom above it. Structures that can't be read, relaxed or compared count as not
    stable. --per-structure writes the energies of each, and the hull with its error. Energies are
    kept in the cache, so an interrupted run goes on.
    """
    from crysmetrics.reporting.hull_plots import check_figure, save_histogram

    request.check_outputs(histogram_path)
    check_figure(histogram_path)
    run = replace(request.run, stability=stability_settings(potentials, agree, relaxed, hull))
    settings = replace(request.settings, steps_per_sample=steps_per_sample)
    report = replace(request, run=run, settings=settings).evaluate(["stability"], gen)
    if histogram_path is not None:
        save_histogram(report, histogram_path)
    request.show(report)
