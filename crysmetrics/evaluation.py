"""From two sets of structures to a `Report`: the one path that CLI and Python API share."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from crysmetrics import references
from crysmetrics._version import __version__
from crysmetrics.device import refuse_missing_device
from crysmetrics.errors import InputError, MissingPackageError, UserError
from crysmetrics.features.cache import open_cache
from crysmetrics.features.extractor import Run
from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals, from_pymatgen, read
from crysmetrics.matching.pairing import read_table
from crysmetrics.metrics.base import (
    Measure,
    Outcome,
    Settings,
    Thresholds,
    Value,
    all_measures,
    parse_thresholds,
    random_generator,
    skipped,
)
from crysmetrics.metrics.description import space_groups
from crysmetrics.metrics.emd import MEASURE_OF_PROPERTY
from crysmetrics.protocols import Plan, plan, shortfalls
from crysmetrics.reporting.report import Report
from crysmetrics.reporting.structure_tables import described, tables
from crysmetrics.reporting.structure_tables import failures as failures_of
from crysmetrics.timing import timed, timed_apart

Structures = "Crystals | str | os.PathLike[str] | Sequence[Structure]"

_REPORTED_PACKAGES = ("numpy", "scipy", "pymatgen", "matminer", "smact")


def as_sample(structures: Any, role: str, run: Run | None = None) -> Sample:
    """A set to evaluate, from Crystals, a path, or pymatgen structures.

    Args:
        structures: a Sample, which is returned as it is; Crystals, anything `read` takes, the
            name of a reference, or an iterable of pymatgen structures.
        role: `gen` or `ref`.
        run: how features are computed.

    Raises:
        InputError: if it holds no structure that can be used.
    """
    if isinstance(structures, Sample):
        return structures
    path = None
    start = time.perf_counter()
    if isinstance(structures, (str, os.PathLike)):
        path = os.fspath(structures)
        named = None if os.path.lexists(path) else references.find(path)
        if named is not None:  # an existing path wins over a name
            sample = references.load(path, named, role, run)
            sample.seconds_reading = time.perf_counter() - start
            return sample
        how = run or Run()
        crystals = read(
            path, id_column=how.id_column, cif_column=how.cif_column, workers=how.workers
        )
    elif isinstance(structures, Crystals):
        crystals = structures
    elif isinstance(structures, Iterable):
        crystals = from_pymatgen(structures)
    else:
        raise InputError(
            f"The {role} structures are a {type(structures).__name__}; give Crystals, a path, or "
            "pymatgen structures."
        )
    if not len(crystals):
        why = f": {crystals.failures[0].file} {crystals.failures[0].reason}"
        raise InputError(
            f"The {role} structures hold none that can be used{why if crystals.failures else ''}."
        )
    sample = Sample(crystals, role, path, run)
    sample.seconds_reading = time.perf_counter() - start
    return sample


def evaluate_measures(
    names: Sequence[str],
    gen: Any,
    ref: Any = None,
    settings: Settings | None = None,
    *,
    metrics: Sequence[str] | None = None,
    run: Run | None = None,
    lenient: bool = False,
) -> Report:
    """Run some measures on one pair of sets, features shared between them.

    Args:
        names: of the measures: `validity`, `emd`, `coverage`, `diversity`, `frechet_crystalnn`, ...
        gen: the generated structures (see `as_sample`).
        ref: the reference, if a measure needs one.
        settings: the defaults if not given.
        metrics: keys to keep in the report; all that the measures declare by default.
        run: how features are computed.
        lenient: whether a measure whose package is not installed is undefined, not an error.

    Raises:
        UserError: if a set can't be used, or a setting is none.
    """
    settings = settings or Settings()
    known = all_measures()
    measures = [known[name] for name in names]
    timing: dict[str, float] = {}
    with timed(timing, "total"):
        with timed(timing, "read"):
            gen_sample = as_sample(gen, "gen", run)
            ref_sample = None
            if ref is None and any(m.needs_reference for m in measures):
                raise UserError(f"{', '.join(names)} needs a reference.")
            if ref is not None:
                ref_sample = as_sample(ref, "ref", run)
        samples = [s for s in (gen_sample, ref_sample) if s is not None]
        outcomes = {}
        for measure in measures:
            with timed_apart(timing, measure.name, samples):
                outcomes[measure.name] = _compute(
                    measure, gen_sample, ref_sample, settings, lenient
                )
    values: dict[str, Value] = {}
    for measure in measures:
        found = outcomes[measure.name].values
        values |= {m.key: found[m.key] for m in measure.metrics if m.key in found}
        values |= {key: value for key, value in found.items() if key not in values}
    if metrics is not None:
        values = {key: values[key] for key in metrics}
    return Report(
        metrics=values,
        settings=settings_json(measures, settings),
        extractors={
            name: {"version": extractor.version, "hash": extractor.hash}
            for sample in samples
            for name, extractor in sample.extractors.items()
        },
        inputs={sample.role: _input_json(sample) for sample in samples},
        failures=(
            *(failure for sample in samples for failure in failures_of(sample)),
            *(failure for outcome in outcomes.values() for failure in outcome.failures),
        ),
        versions=versions(),
        timing=timing,
        per_structure=tables(samples, [outcomes[m.name] for m in measures]),
        outcomes=outcomes,
        samples={sample.role: sample for sample in samples},
        thresholds=settings.thresholds,
    )


def evaluate(
    gen: Any,
    ref: Any,
    *,
    protocol: str = "full",
    metrics: Sequence[str] | None = None,
    paired: bool = False,
    **options: Any,
) -> Report:
    """Every metric that applies, or those of a protocol, in one pass over shared features.

    Args:
        gen, ref: Crystals, paths, or pymatgen structures.
        protocol: `full`, or a paper's set-up: `gemsdiff`, `cdvae`, `adaptive-cell`.
        metrics: keys of metrics or names of measures, if not all of the protocol.
        paired: whether the structures of both sets belong together, in their order; sets with
            a `samples.csv` or equal ids are paired by these anyway (see `pairing_of`).
        options: fields of `Settings` (`thresholds`, `oxidation_states`, `subset`, `seed`, ...),
            and `workers`, `cache`, `device`, `alignn`, `backend`, `dask`.

    Raises:
        UserError: if a set can't be used, there is no such protocol or metric, or an option
            contradicts the protocol.
    """
    run, settings = _run_and_settings(options)
    gen_sample, ref_sample = as_sample(gen, "gen", run), as_sample(ref, "ref", run)
    pairing = pairing_of(gen_sample, ref_sample, paired)
    chosen = plan(protocol, metrics, settings, frozenset(options), pairing)
    return evaluate_plan(chosen, gen_sample, ref_sample, run)


def evaluate_plan(chosen: Plan, gen: Sample, ref: Sample, run: Run | None = None) -> Report:
    """The report of a plan, with a description of every structure in its tables."""
    start = time.perf_counter()
    reading = gen.seconds_reading + ref.seconds_reading
    gen, ref = _limited(gen, chosen.settings), _of_space_groups(ref, chosen.settings)
    report = evaluate_measures(
        chosen.measures,
        gen,
        ref,
        chosen.settings,
        metrics=chosen.metrics,
        run=run,
        lenient=not chosen.explicit,
    )
    timing = dict(report.timing)
    with timed(timing, "description"):
        by_role = {s.role: described(report.per_structure[s.role], s) for s in (gen, ref)}
    timing |= {"read": reading, "total": reading + time.perf_counter() - start}
    return replace(_marked(report), per_structure=by_role, timing=timing)


def _marked(report: Report) -> Report:
    """The report with a note at each metric of fewer structures than its protocol takes."""
    values = dict(report.metrics)
    for key, note in shortfalls(report.as_json()).items():
        values[key] = values[key].with_note(note)
    return replace(report, metrics=values)


def pairing_of(gen: Sample, ref: Sample, asked: bool = False) -> str | None:
    """What pairs generated structures with references (`Settings.pairing`); None for nothing.

    A table or property `ref_id` does, and so do ids, if all generated structures have a reference
    of the same id, of the same composition for most: ids such as 0, 1, 2 are often equal by
    accident. If asked for, it is the order otherwise.

    Raises:
        UserError: if pairs are asked for, and the table beside the structures is no good.
    """
    names: Any = gen.crystals.properties.get("ref_id")
    if names is None and gen.path is not None and Path(gen.path).exists():
        try:
            names = (read_table(gen.path) or {}).get("ref_id")
        except UserError:  # a table of another program's, maybe
            if asked:
                raise
    if names is not None and not set(names).isdisjoint(ref.crystals.ids):
        return "auto"
    return "auto" if _have_equal_ids(gen.crystals, ref.crystals) else "order" if asked else None


def _have_equal_ids(gen: Crystals, ref: Crystals) -> bool:
    position = {name: k for k, name in enumerate(ref.ids)}
    index = [position.get(name, -1) for name in gen.ids]
    if min(index) < 0 or 2 * len(index) < len(position):
        return False
    ours, theirs = gen.element_counts, ref.element_counts[index]
    ours, theirs = (c // np.gcd.reduce(c, axis=1, keepdims=True) for c in (ours, theirs))
    return bool((ours == theirs).all(axis=1).mean() > 0.5)


def validity(gen: Any, **options: Any) -> Report:
    """Structural, composition and joint validity of generated structures.

    Args:
        gen: Crystals, a path, or pymatgen structures.
        options: fields of `Settings` (`min_distance`, `min_volume`, `oxidation_states`), and
            `workers`.
    """
    return _evaluate(["validity"], gen, None, options)


def emd(
    gen: Any,
    ref: Any,
    properties: Sequence[str] = ("density", "energy", "num_elements"),
    **options: Any,
) -> Report:
    """Earth mover's distances of density, energy and number of elements.

    Args:
        gen, ref: Crystals, paths, or pymatgen structures.
        properties: which of the three; energies take a network's time.
        options: fields of `Settings` (`subset`, `seed`, and those of validity, which decide
            what a valid subset is), and `workers`, `cache`, `device`, `alignn`.
    """
    names = list(dict.fromkeys(MEASURE_OF_PROPERTY[name] for name in properties))
    return _evaluate(names, gen, ref, options, metrics=[f"emd_{name}" for name in properties])


def coverage(gen: Any, ref: Any, **options: Any) -> Report:
    """COV-R, COV-P, AMSD and AMCD, by the paper's equation and as published.

    Args:
        gen, ref: Crystals, paths, or pymatgen structures.
        options: `thresholds` (a data set's name, "0.4,10", or `Thresholds`), `backend`,
            `workers`, and `cache` (a folder; the user's cache by default, "off" for none).
    """
    return _evaluate(["coverage"], gen, ref, options)


def frechet(gen: Any, ref: Any, features: Sequence[str] = ("crystalnn",), **options: Any) -> Report:
    """Fréchet distances on fingerprints or network activations.

    Args:
        gen, ref: Crystals, paths, or pymatgen structures.
        features: of `crystalnn` and `cgcnn`.
        options: `seed`, `backend`, `workers`, `cache`.
    """
    return _evaluate([f"frechet_{name}" for name in features], gen, ref, options)


def diversity(gen: Any, **options: Any) -> Report:
    """Mean pairwise distances of structure and composition fingerprints.

    Args:
        gen: Crystals, a path, or pymatgen structures.
        options: `subset` and `seed`, those of validity, `backend`, `workers`, `cache`.
    """
    return _evaluate(["diversity"], gen, None, options)


def fad(gen: Any, ref: Any, **options: Any) -> Report:
    """Fréchet ALIGNN distance, its extrapolation to infinite samples, and a kernel distance.

    Args:
        gen, ref: Crystals, paths, or pymatgen structures.
        options: `seed`, `alignn` (weights), `backend` (`native`, `alignn-dgl`), `workers`,
            `device`, `cache`.
    """
    return _evaluate(["fad"], gen, ref, options)


def match(pred: Any, ref: Any, top: Sequence[int] | int = (1,), **options: Any) -> Report:
    """Match rates by both published rules, RMSE, cRMSE and METRe of predicted structures.

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


def _evaluate(
    names: list[str],
    gen: Any,
    ref: Any,
    options: dict[str, Any],
    metrics: Sequence[str] | None = None,
) -> Report:
    run, settings = _run_and_settings(options)
    return evaluate_measures(names, gen, ref, settings, metrics=metrics, run=run)


def _run_and_settings(options: dict[str, Any]) -> tuple[Run, Settings]:
    """Take apart what a user gave by name; what belongs to the run leaves `options`."""
    names_of_run = ("backend", "workers", "device", "alignn", "dask")
    chosen = {k: options.pop(k) for k in names_of_run if k in options}
    run = Run(cache=open_cache(options.pop("cache", None)), **chosen)
    if run.dask is None:  # a cluster's workers have devices of their own
        refuse_missing_device(run.device)
    if not isinstance(options.get("thresholds", Thresholds(0, 0)), Thresholds):
        options["thresholds"] = parse_thresholds(str(options["thresholds"]))
    return run, Settings(**options)


def _compute(
    measure: Measure, gen: Sample, ref: Sample | None, settings: Settings, lenient: bool
) -> Outcome:
    try:
        return measure.compute(gen, ref, settings)  # type: ignore[arg-type]
    except MissingPackageError as error:
        if not lenient:
            raise
        return skipped(measure, error)


def _limited(gen: Sample, settings: Settings) -> Sample:
    """A random draw of a set, failures included, if the settings limit it."""
    crystals, limit = gen.crystals, settings.limit
    if limit is None or crystals.num_total <= limit:
        return gen
    chosen = random_generator(settings, "limit").choice(crystals.num_total, limit, replace=False)
    chosen = np.sort(chosen)
    failed = [crystals.failures[i - len(crystals)] for i in chosen[chosen >= len(crystals)]]
    return gen.chosen(chosen[chosen < len(crystals)], failed)


def _of_space_groups(ref: Sample, settings: Settings) -> Sample:
    """The reference structures of the space groups that the settings ask for."""
    if settings.reference_space_groups is None:
        return ref
    first, last = settings.reference_space_groups
    groups = space_groups(ref)
    chosen = np.flatnonzero((groups >= first) & (groups <= last))
    if not len(chosen):
        raise UserError(f"No reference structure has a space group of number {first} to {last}.")
    return ref.chosen(chosen, ref.crystals.failures)


def settings_json(measures: Sequence[Measure], settings: Settings) -> dict[str, Any]:
    """Those settings that the numbers of some measures depend on."""
    names = dict.fromkeys(name for measure in measures for name in measure.settings)
    if "subset" in names and "valid" in settings.subset:
        names |= dict.fromkeys(("min_distance", "min_volume", "oxidation_states"))
    if settings.limit is not None:
        names |= dict.fromkeys(("limit", "seed"))
    if settings.reference_space_groups is not None:
        names |= {"reference_space_groups": None}
    return settings.as_json((*names, "protocol"))


def _input_json(sample: Sample) -> dict[str, Any]:
    crystals = sample.crystals
    return {
        "path": sample.path,
        "read": len(crystals),
        "failed": len(crystals.failures),
        "sha256": crystals.sha256(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that make the numbers."""
    found = {"crysmetrics": __version__, "python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
