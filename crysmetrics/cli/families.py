"""Commands that report one family of metrics, each named after the family.

Most follow from the family's declaration (`crysmetrics.metrics.registry`): this module has them as
attributes, made when they are asked for. Those with an option of their own are written here.
"""

from __future__ import annotations

from typing import Any

import click

from crysmetrics.cli.options import gen_argument, listed, ref_argument, train_argument
from crysmetrics.cli.request import (
    FINGERPRINTS,
    NETWORK,
    WITH_TABLE,
    Request,
    requested,
    run_options,
)
from crysmetrics.features.registry import FRECHET_FEATURES, entry
from crysmetrics.metrics.registry import family, family_names
from crysmetrics.metrics.settings import VALIDITY, options_of

_ARGUMENTS = {"gen": gen_argument, "ref": ref_argument, "train": train_argument}


def __getattr__(name: str) -> click.Command:
    if name not in family_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return family_command(name)


def family_command(name: str) -> click.Command:
    """Make the command of a family from its declaration: a set for each role, and its options."""
    declared = family(name)
    roles = [role for role in _ARGUMENTS if role in declared.roles]

    def command(request: Request, **sets: Any) -> None:
        from crysmetrics.metrics.registry import measures_of

        request.check_outputs()
        names = [measure.name for measure in measures_of(name)]
        request.show(request.evaluate(names, **sets))

    command.__doc__ = declared.text
    decorated = requested(
        run=run_options(declared.features),
        settings=options_of(declared.settings),
        output=WITH_TABLE,
    )(command)
    for role in reversed(roles):
        decorated = _ARGUMENTS[role](decorated)
    return click.command(name.replace("_", "-"))(decorated)


@click.command()
@gen_argument
@ref_argument
@click.option(
    "--property",
    "properties",
    type=click.Choice(["density", "num_elements", "energy", "energy_cdvae", "all"]),
    default="all",
    show_default=True,
    help="Compare the distributions of this property; energies are predicted by ALIGNN, or by "
    "CDVAE's own network of the data set that the thresholds name.",
)
@requested(run=NETWORK, settings=("thresholds", "subset", "seed", *VALIDITY))
def emd(gen: str, ref: str, properties: str, request: Request) -> None:
    """Compute earth mover's distances of density, energy and element count.

    Validity options decide what a `valid` subset is. What can't be read is left out.
    """
    from crysmetrics.metrics.emd import MEASURE_OF_PROPERTY

    request.check_outputs()
    wanted = list(MEASURE_OF_PROPERTY) if properties == "all" else [properties]
    measures = list(dict.fromkeys(MEASURE_OF_PROPERTY[name] for name in wanted))
    keys = [f"emd_{name}" for name in wanted]
    # Without PyTorch there are no energies; the others are worth having.
    lenient = properties == "all"
    request.show(request.evaluate(measures, gen, ref, metrics=keys, lenient=lenient))


@click.command()
@gen_argument
@ref_argument
@click.option(
    "--sweep",
    "sweep_path",
    metavar="FILE",
    help="Write coverage against thresholds as .csv, or as a figure (.png, .svg, .pdf).",
)
@requested(run=FINGERPRINTS, settings=("thresholds",), output=WITH_TABLE)
def coverage(gen: str, ref: str, sweep_path: str | None, request: Request) -> None:
    """Compute COV-R, COV-P, AMSD and AMCD against a reference.

    cov_recall and cov_precision follow the paper's equation; the _marginal ones are those of
    published tables, where nearest structure and nearest composition may be different crystals.
    """
    from crysmetrics.cli.sweep import check_sweep_path, save_sweep

    check_sweep_path(sweep_path)
    request.check_outputs(sweep_path)
    report = request.evaluate(["coverage"], gen, ref)
    if sweep_path is not None:
        save_sweep(report, request.settings, sweep_path)
    request.show(report)


@click.command()
@gen_argument
@ref_argument
@click.option(
    "--features",
    default="crystalnn",
    show_default=True,
    metavar="LIST",
    help="Compare these features, comma-separated. "
    + "; ".join(f"{name}: {entry(name).contents}" for name in FRECHET_FEATURES)
    + ".",
)
@requested(run=FINGERPRINTS, settings=("seed",))
def frechet(gen: str, ref: str, features: str, request: Request) -> None:
    """Compute Fréchet distances on fingerprints or network activations."""
    from crysmetrics.errors import UserError

    names = listed(features, "--features")
    for name in names:
        if name not in FRECHET_FEATURES:
            known = ", ".join(FRECHET_FEATURES)
            raise UserError(f"There is no Fréchet distance on {name!r}; known are {known}.")
    request.check_outputs()
    measures = [f"frechet_{name}" for name in names]
    request.show(request.evaluate(measures, gen, ref))
