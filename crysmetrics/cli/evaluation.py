"""Commands that report metrics: validity, emd, coverage, frechet, diversity."""

from __future__ import annotations

import click

from crysmetrics.cli.options import (
    alignn_options,
    backend_option,
    cache_option,
    check_outputs,
    gen_argument,
    output_options,
    per_structure_option,
    progress,
    ref_argument,
    seed_option,
    show,
    subset_option,
    user_errors,
)

oxidation_option = click.option(
    "--oxidation-states",
    default="smact14",
    show_default=True,
    metavar="SET",
    help="smact14, icsd16, icsd24, icsd24-filtered (SMACT 4's default), pymatgen_sp or wiki.",
)
distance_option = click.option(
    "--min-distance",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    help="Å; valid structures keep all distances above it.",
)


@click.command()
@gen_argument
@oxidation_option
@distance_option
@per_structure_option
@output_options
@user_errors
def validity(
    gen: str,
    oxidation_states: str,
    min_distance: float,
    per_structure_path: str | None,
    json_path: str | None,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Share of structures that are valid.

    Structures: all distances above the minimum, over all periodic images, and a volume of at
    least 0.1 Å³. Compositions: charge neutral by SMACT with the Pauling test. What can't be
    read counts as invalid.
    """
    from crysmetrics.evaluation import evaluate_measures
    from crysmetrics.features.base import Run
    from crysmetrics.metrics.base import Settings

    check_outputs(overwrite, json_path, per_structure_path)
    settings = Settings(oxidation_states=oxidation_states, min_distance=min_distance)
    with progress(quiet):
        report = evaluate_measures(["validity"], gen, settings=settings, run=Run(workers=workers))
    show(report, json_path=json_path, quiet=quiet, per_structure_path=per_structure_path)


@click.command()
@gen_argument
@ref_argument
@click.option(
    "--property",
    "properties",
    type=click.Choice(["density", "num_elements", "energy", "all"]),
    default="all",
    show_default=True,
    help="Whose distributions are compared; energies are predicted by ALIGNN.",
)
@subset_option
@seed_option
@oxidation_option
@distance_option
@alignn_options
@output_options
@user_errors
def emd(
    gen: str,
    ref: str,
    properties: str,
    subset: str,
    seed: int,
    oxidation_states: str,
    min_distance: float,
    alignn: str | None,
    backend: str,
    device: str,
    cache: str | None,
    json_path: str | None,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Earth mover's distances of density, energy and element count.

    Validity options decide what a `valid` subset is. What can't be read is left out.
    """
    from crysmetrics.evaluation import evaluate_measures
    from crysmetrics.features.base import Run
    from crysmetrics.features.cache import open_cache
    from crysmetrics.metrics.base import Settings
    from crysmetrics.metrics.emd import MEASURE_OF_PROPERTY
    from crysmetrics.metrics.subset import parse_subset

    parse_subset(subset)
    check_outputs(overwrite, json_path)
    settings = Settings(
        subset=subset, seed=seed, oxidation_states=oxidation_states, min_distance=min_distance
    )
    wanted = list(MEASURE_OF_PROPERTY) if properties == "all" else [properties]
    with progress(quiet):
        report = evaluate_measures(
            list(dict.fromkeys(MEASURE_OF_PROPERTY[name] for name in wanted)),
            gen,
            ref,
            settings,
            metrics=[f"emd_{name}" for name in wanted],
            run=Run(backend, workers, open_cache(cache), device, alignn),
        )
    show(report, json_path=json_path, quiet=quiet)


@click.command()
@gen_argument
@ref_argument
@click.option(
    "--thresholds",
    default="mp20",
    show_default=True,
    metavar="NAME|S,C",
    help="mp20, perov5 or carbon24, or a structure and a composition distance such as 0.4,10.",
)
@click.option(
    "--sweep",
    "sweep_path",
    metavar="FILE",
    help="Write coverage against thresholds as .csv, or as a figure (.png, .svg, .pdf).",
)
@backend_option
@cache_option
@per_structure_option
@output_options
@user_errors
def coverage(
    gen: str,
    ref: str,
    thresholds: str,
    sweep_path: str | None,
    backend: str,
    cache: str | None,
    per_structure_path: str | None,
    json_path: str | None,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """COV-R, COV-P, AMSD and AMCD against a reference.

    cov_recall and cov_precision follow the paper's equation; the _marginal ones are those of
    published tables, where nearest structure and nearest composition may be different crystals.
    """
    from crysmetrics.cli.sweep import check_sweep_path, save_sweep
    from crysmetrics.evaluation import evaluate_measures
    from crysmetrics.features.base import Run
    from crysmetrics.features.cache import open_cache
    from crysmetrics.metrics.base import Settings, parse_thresholds

    settings = Settings(thresholds=parse_thresholds(thresholds))
    check_sweep_path(sweep_path)
    check_outputs(overwrite, json_path, per_structure_path, sweep_path)
    with progress(quiet):
        report = evaluate_measures(
            ["coverage"],
            gen,
            ref,
            settings,
            run=Run(backend, workers, open_cache(cache)),
        )
    if sweep_path is not None:
        save_sweep(report, settings, sweep_path)
    show(report, json_path=json_path, quiet=quiet, per_structure_path=per_structure_path)


@click.command()
@gen_argument
@ref_argument
@click.option(
    "--features",
    default="crystalnn",
    show_default=True,
    metavar="LIST",
    help="Comma-separated: crystalnn, cgcnn.",
)
@seed_option
@backend_option
@cache_option
@output_options
@user_errors
def frechet(
    gen: str,
    ref: str,
    features: str,
    seed: int,
    backend: str,
    cache: str | None,
    json_path: str | None,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Fréchet distances on fingerprints or network activations.

    crystalnn: the 61 CrystalNN numbers. cgcnn: activations before the last layer of the original
    CGCNN formation-energy model (extra: pip install crysmetrics[cgcnn]).
    """
    from crysmetrics.errors import UserError
    from crysmetrics.evaluation import evaluate_measures
    from crysmetrics.features.base import Run
    from crysmetrics.features.cache import open_cache
    from crysmetrics.metrics.base import Settings
    from crysmetrics.metrics.frechet import FRECHET_FEATURES

    names = [name.strip() for name in features.split(",")]
    for name in names:
        if name not in FRECHET_FEATURES:
            known = ", ".join(FRECHET_FEATURES)
            raise UserError(f"There is no Fréchet distance on {name!r}; known are {known}.")
    check_outputs(overwrite, json_path)
    with progress(quiet):
        report = evaluate_measures(
            [f"frechet_{name}" for name in dict.fromkeys(names)],
            gen,
            ref,
            Settings(seed=seed),
            run=Run(backend, workers, open_cache(cache)),
        )
    show(report, json_path=json_path, quiet=quiet)


@click.command()
@gen_argument
@subset_option
@seed_option
@oxidation_option
@distance_option
@backend_option
@cache_option
@output_options
@user_errors
def diversity(
    gen: str,
    subset: str,
    seed: int,
    oxidation_states: str,
    min_distance: float,
    backend: str,
    cache: str | None,
    json_path: str | None,
    workers: int | None,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Mean pairwise distance of structure and of composition fingerprints.

    Validity options decide what a `valid` subset is; CDVAE's tables have --subset valid:1000.
    """
    from crysmetrics.evaluation import evaluate_measures
    from crysmetrics.features.base import Run
    from crysmetrics.features.cache import open_cache
    from crysmetrics.metrics.base import Settings
    from crysmetrics.metrics.subset import parse_subset

    parse_subset(subset)
    check_outputs(overwrite, json_path)
    settings = Settings(
        subset=subset, seed=seed, oxidation_states=oxidation_states, min_distance=min_distance
    )
    with progress(quiet):
        report = evaluate_measures(
            ["diversity"],
            gen,
            settings=settings,
            run=Run(backend, workers, open_cache(cache)),
        )
    show(report, json_path=json_path, quiet=quiet)
