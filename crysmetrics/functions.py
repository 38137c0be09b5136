"""Functions of Python users, one for each family of metrics: `crysmetrics.coverage(gen, ref)`.

A family's function follows from its declaration. Those with an argument of their own (which
property, which features, how many predictions) are written here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from crysmetrics.evaluation import (
    as_sample,
    evaluate_measures,
    run_and_settings,
    with_energies_of,
)
from crysmetrics.metrics.registry import family, measures_of
from crysmetrics.reporting.report import Report

_SETS = {
    "gen": "generated structures: Crystals, a path, or pymatgen structures",
    "ref": "the reference, likewise",
    "train": "the training set, likewise",
}


def family_function(name: str) -> Callable[..., Report]:
    """Make the function of a family of metrics from its declaration.

    Raises:
        UserError: if there is no such family.
    """
    measures = measures_of(name)
    roles = tuple(r for r in _SETS if any(r in measure.roles for measure in measures))

    def function(*args: Any, **options: Any) -> Report:
        bound = signature.bind(*args, **options)
        sets = {role: bound.arguments[role] for role in roles}
        run, settings = run_and_settings(dict(bound.arguments.get("options", {})))
        return evaluate_measures([m.name for m in measures], settings=settings, run=run, **sets)

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature(
        [
            *(inspect.Parameter(role, positional, annotation=Any) for role in roles),
            inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD, annotation=Any),
        ],
        return_annotation=Report,
    )
    settings = ", ".join(dict.fromkeys(s for measure in measures for s in measure.settings))
    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__name__ = function.__qualname__ = name
    arguments = "\n".join(f"    {role}: {_SETS[role]}." for role in roles)
    function.__doc__ = (
        f"{family(name).text}\n\nArgs:\n{arguments}\n"
        f"    options: settings ({settings or 'none'}), and `workers`, `cache`, `device`, "
        "`alignn`, `backend`,\n        `dask`.\n"
    )
    return function


def emd(
    gen: Any,
    ref: Any,
    properties: Sequence[str] = ("density", "energy", "num_elements"),
    **options: Any,
) -> Report:
    """Compute earth mover's distances of density, energy and number of elements.

    Args:
        gen, ref: Crystals, paths, or pymatgen structures.
        properties: which of the three; energies take a network's time.
        options: settings (`subset`, `seed`, and those of validity, which decide what a valid
            subset is), and `workers`, `cache`, `device`, `alignn`.
    """
    from crysmetrics.metrics.emd import MEASURE_OF_PROPERTY

    names = list(dict.fromkeys(MEASURE_OF_PROPERTY[name] for name in properties))
    return _evaluate(names, gen, ref, options, metrics=[f"emd_{name}" for name in properties])


def frechet(gen: Any, ref: Any, features: Sequence[str] = ("crystalnn",), **options: Any) -> Report:
    """Compute Fréchet distances on fingerprints or network activations.

    Args:
        gen, ref: Crystals, paths, or pymatgen structures.
        features: of `crystalnn` and `cgcnn`.
        options: `seed`, `backend`, `workers`, `cache`.
    """
    return _evaluate([f"frechet_{name}" for name in features], gen, ref, options)


def match(pred: Any, ref: Any, top: Sequence[int] | int = (1,), **options: Any) -> Report:
    """Compute match rates by both published rules, RMSE, cRMSE and METRe of predictions.

    Args:
        pred: predictions: Crystals, a path, or pymatgen structures. A folder or archive may hold
            `samples.csv` with `file`, `ref_id` and `rank`; Crystals may have the properties
            `ref_id` and `rank`. Otherwise those of one id belong together.
        ref: references.
        top: numbers of predictions for one reference of which the best counts. Keys of the
            report are `match_rate` for 1 and `match_rate_top5` for 5, say.
        options: `metre`, `pairing`, `stol`, `angle_tol`, `ltol`, those of validity, `workers`.
    """
    options["top"] = (top,) if isinstance(top, int) else tuple(top)
    return _evaluate(["match"], pred, ref, options)


def sun(gen: Any, train: Any, energies: Any = None, **options: Any) -> Report:
    """Compute the shares of stable, unique, novel and symmetric structures and combinations.

    Args:
        gen: generated structures: Crystals, a path, or pymatgen structures.
        train: the training set, likewise.
        energies: path of a table of energies above the hull (`id` or `file`, `e_above_hull` in
            eV/atom); by default those that `stability` computes, if it is given, or the property
            `e_above_hull` of `gen`.
        options: `tolerances`, `workers`, `cache`, `device`, `stability` (a `StabilitySettings`).
    """
    from crysmetrics.metrics.sun import has_energies

    run, settings = run_and_settings(options)
    sample = as_sample(gen, "gen", run)
    if energies is not None:
        sample = with_energies_of(sample, energies, run)
    names = ["uniqueness", "symmetric_share", "novelty", "sun"]
    if has_energies(sample):
        names.insert(0, "stability")
    return evaluate_measures(names, sample, settings=settings, train=train, run=run)


def _evaluate(
    names: list[str],
    gen: Any,
    ref: Any,
    options: dict[str, Any],
    metrics: Sequence[str] | None = None,
) -> Report:
    run, settings = run_and_settings(options)
    return evaluate_measures(names, gen, ref, settings, metrics=metrics, run=run)


WRITTEN: dict[str, Callable[..., Report]] = {
    "emd": emd,
    "frechet": frechet,
    "match": match,
    "sun": sun,
}
"""Functions with arguments of their own."""


def function_of(name: str) -> Callable[..., Report]:
    """Give the function of a family, written here or made from its declaration."""
    return WRITTEN.get(name) or family_function(name)
