"""From sets of structures to a `Report`: the one path that commands and Python functions share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from crysmetrics import references
from crysmetrics.device import refuse_missing_device
from crysmetrics.errors import InputError, MissingPackageError, UserError
from crysmetrics.features.cache import open_cache
from crysmetrics.features.extractor import Run
from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals, from_pymatgen, read
from crysmetrics.io.energies import ENERGY, with_energies
from crysmetrics.metrics.base import Measure, Outcome, Value, random_generator
from crysmetrics.metrics.registry import find_measures, metrics_of
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.protocols import Plan, plan, shortfalls
from crysmetrics.reporting.report import Report, input_json, settings_json, versions
from crysmetrics.reporting.structure_tables import described, tables
from crysmetrics.reporting.structure_tables import failures as failures_of
from crysmetrics.timing import timed, timed_apart

Structures = "Crystals | str | os.PathLike[str] | Sequence[Structure]"


def as_sample(structures: Any, role: str, run: Run | None = None) -> Sample:
    """Read a set to evaluate from Crystals, a path, or pymatgen structures.

    Args:
        structures: a Sample, which is returned as it is; Crystals, anything `read` takes, the
            name of a reference, or an iterable of pymatgen structures.
        role: `gen`, `ref` or `train`.
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


def with_energies_of(gen: Any, path: str | os.PathLike[str], run: Run | None = None) -> Sample:
    """Read a set, and the energies above the hull of its structures from a table.

    Args:
        gen, run: see `as_sample`.
        path: of a CSV file, see `io.energies.with_energies`.

    Raises:
        UserError: if either can't be used.
    """
    from crysmetrics.features.e_above_hull import use_given

    sample = as_sample(gen, "gen", run)
    sample.crystals = with_energies(sample.crystals, path)
    use_given(sample)
    return sample


def evaluate_measures(
    names: Sequence[str],
    gen: Any,
    ref: Any = None,
    settings: EvaluationSettings | None = None,
    *,
    train: Any = None,
    metrics: Sequence[str] | None = None,
    run: Run | None = None,
    lenient: bool = False,
) -> Report:
    """Run some measures on one group of sets, features shared between them.

    Args:
        names: of the measures: `validity`, `emd`, `coverage`, `diversity`, `frechet_crystalnn`, ...
        gen: the generated structures (see `as_sample`).
        ref: the reference, if a measure needs one.
        settings: the defaults if not given.
        train: the training set, if a measure needs it.
        metrics: keys to keep in the report; all that the measures declare by default.
        run: how features are computed.
        lenient: whether a measure whose package is not installed is undefined, not an error.

    Raises:
        UserError: if a set can't be used or is missing, or a setting is invalid.
    """
    settings = settings or EvaluationSettings()
    measures = find_measures(names)
    given = {"gen": gen, "ref": ref, "train": train}
    refuse_missing_roles(measures, [role for role, found in given.items() if found is not None])
    timing: dict[str, float] = {}
    with timed(timing, "total"):
        with timed(timing, "read"):
            samples = {
                role: as_sample(found, role, run)
                for role, found in given.items()
                if found is not None
            }
        outcomes = {}
        for measure in measures:
            with timed_apart(timing, measure.name, list(samples.values())):
                outcomes[measure.name] = _compute(measure, samples, settings, lenient, metrics)
    return Report(
        metrics=_values(measures, outcomes, metrics),
        settings=settings_json(measures, settings),
        extractors={
            name: {"version": extractor.version, "hash": extractor.hash}
            for sample in samples.values()
            for name, extractor in sample.extractors.items()
        },
        inputs={role: input_json(sample) for role, sample in samples.items()},
        failures=(
            *(failure for sample in samples.values() for failure in failures_of(sample)),
            *(failure for outcome in outcomes.values() for failure in outcome.failures),
        ),
        versions=versions(),
        timing=timing,
        per_structure=tables(list(samples.values()), [outcomes[m.name] for m in measures]),
        outcomes=outcomes,
        samples=samples,
        thresholds=settings.thresholds,
        declared=metrics_of(measures),
    )


_ROLE_NAMES = {"gen": "generated structures", "ref": "a reference", "train": "a training set"}


def refuse_missing_roles(measures: Sequence[Measure], roles: Sequence[str]) -> None:
    """Raise `UserError` if a measure needs a set that is not given."""
    for measure in measures:
        for role in measure.roles:
            if role not in roles:
                raise UserError(f"{measure.name} needs {_ROLE_NAMES[role]} ({role}).")


def _values(
    measures: Sequence[Measure], outcomes: Mapping[str, Outcome], metrics: Sequence[str] | None
) -> dict[str, Value]:
    """Select values in the order of the declarations, or those of some keys."""
    values: dict[str, Value] = {}
    for measure in measures:
        found = outcomes[measure.name].values
        values |= {m.key: found[m.key] for m in measure.metrics if m.key in found}
        values |= {key: value for key, value in found.items() if key not in values}
    return values if metrics is None else {key: values[key] for key in metrics}


def _compute(
    measure: Measure,
    samples: Mapping[str, Sample],
    settings: EvaluationSettings,
    lenient: bool,
    wanted: Sequence[str] | None,
) -> Outcome:
    try:
        return measure.run(samples, settings, wanted)
    except MissingPackageError as error:
        if not lenient:
            raise
        return measure.skipped(error)


def evaluate(
    gen: Any,
    ref: Any,
    *,
    train: Any = None,
    energies: str | os.PathLike[str] | None = None,
    protocol: str = "full",
    metrics: Sequence[str] | None = None,
    paired: bool = False,
    **options: Any,
) -> Report:
    """Compute every metric that applies, or those of a protocol, over shared features.

    Args:
        gen, ref: Crystals, paths, or pymatgen structures.
        train: the training set, for metrics that compare with it.
        energies: a table of energies above the hull (`id` or `file`, `e_above_hull` in eV/atom);
            by default those that `stability` computes, if it is given, or the property
            `e_above_hull` of the generated structures.
        protocol: `full`, or a paper's set-up, see `protocols.PROTOCOLS`.
        metrics: keys of metrics or names of measures, if not all of the protocol.
        paired: whether the structures of both sets belong together, in their order; sets with
            a `samples.csv` or equal ids are paired by these anyway (see `pairing_of`).
        options: fields of `EvaluationSettings` (`thresholds`, `oxidation_states`, `subset`,
            `seed`, ...), and `workers`, `cache`, `device`, `alignn`, `backend`, `dask`.

    Raises:
        UserError: if a set can't be used, there is no such protocol or metric, or an option
            contradicts the protocol.
    """
    run, settings = run_and_settings(options)
    roles = ("gen", "ref") if train is None else ("gen", "ref", "train")
    chosen = plan(protocol, metrics, settings, frozenset(options), roles)
    if energies is not None:
        gen = with_energies_of(gen, energies, run)
    return evaluate_plan(chosen, gen, ref, run, train=train, paired=paired)


def evaluate_plan(
    chosen: Plan,
    gen: Any,
    ref: Any,
    run: Run | None = None,
    *,
    train: Any = None,
    paired: bool = False,
) -> Report:
    """Make the report of a plan, with a description of every structure in its tables.

    Args:
        chosen: of `protocols.plan`.
        gen, ref, train: see `as_sample`; the training set may be None.
        run: how features are computed.
        paired: whether structures belong together in their order, see `pairing_of`.
    """
    from crysmetrics.features.e_above_hull import use_given

    gen, ref = as_sample(gen, "gen", run), as_sample(ref, "ref", run)
    train = None if train is None else as_sample(train, "train", run)
    chosen = chosen.with_pairing(pairing_of(gen, ref, paired))
    # A potential that is named counts more than energies that structures bring along.
    if gen.has_features(ENERGY) or (gen.run.stability is None and use_given(gen)):
        chosen = chosen.with_energies()
    start = time.perf_counter()
    reading = sum(s.seconds_reading for s in (gen, ref, train) if s is not None)
    gen, ref = _limited(gen, chosen.settings), _of_space_groups(ref, chosen.settings)
    report = evaluate_measures(
        chosen.measures,
        gen,
        ref,
        chosen.settings,
        train=train,
        metrics=chosen.metrics,
        run=run,
        lenient=not chosen.explicit,
    )
    timing = dict(report.timing)
    with timed(timing, "description"):
        by_role = {
            role: described(table, report.samples[role])
            for role, table in report.per_structure.items()
        }
    timing |= {"read": reading, "total": reading + time.perf_counter() - start}
    return replace(marked(report), per_structure=by_role, timing=timing)


def marked(report: Report) -> Report:
    """Add a note to each metric of fewer structures than its protocol takes."""
    values = dict(report.metrics)
    for key, note in shortfalls(report.as_json()).items():
        values[key] = values[key].with_note(note)
    return replace(report, metrics=values)


def pairing_of(gen: Sample, ref: Sample, asked: bool = False) -> str | None:
    """Find what pairs generated structures with references (`pairing`); None for nothing.

    A table or property `ref_id` does, and so do ids, if all generated structures have a reference
    of the same id, of the same composition for most: ids such as 0, 1, 2 are often equal by
    accident. If asked for, it is the order otherwise.

    Raises:
        UserError: if pairs are asked for, and the table beside the structures is no good.
    """
    from crysmetrics.matching.pairing import read_table

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


def run_and_settings(options: dict[str, Any]) -> tuple[Run, EvaluationSettings]:
    """Take apart options given by name; those of the run leave `options`.

    Raises:
        UserError: if there is no such option, or a value is invalid.
    """
    names_of_run = ("backend", "workers", "device", "alignn", "stability", "dask")
    chosen = {k: options.pop(k) for k in names_of_run if k in options}
    run = Run(cache=open_cache(options.pop("cache", None)), **chosen)
    if run.dask is None:  # a cluster's workers have devices of their own
        refuse_missing_device(run.device)
    for declared in fields(EvaluationSettings):
        parse = declared.metadata.get("parse")
        if parse is not None and isinstance(options.get(declared.name), str):
            options[declared.name] = parse(options[declared.name])
    if unknown := sorted(
        options.keys() - {declared.name for declared in fields(EvaluationSettings)}
    ):
        raise UserError(f"There is no option {', '.join(unknown)}.")
    return run, EvaluationSettings(**options)


def _limited(gen: Sample, settings: EvaluationSettings) -> Sample:
    """Draw some of a set at random, failures included, if the settings limit it."""
    crystals, limit = gen.crystals, settings.limit
    if limit is None or crystals.num_total <= limit:
        return gen
    chosen = random_generator(settings, "limit").choice(crystals.num_total, limit, replace=False)
    chosen = np.sort(chosen)
    failed = [crystals.failures[i - len(crystals)] for i in chosen[chosen >= len(crystals)]]
    return gen.chosen(chosen[chosen < len(crystals)], failed)


def _of_space_groups(ref: Sample, settings: EvaluationSettings) -> Sample:
    """Select the reference structures of the space groups that the settings ask for."""
    if settings.reference_space_groups is None:
        return ref
    first, last = settings.reference_space_groups
    from crysmetrics.metrics.description import space_groups

    groups = space_groups(ref)
    chosen = np.flatnonzero((groups >= first) & (groups <= last))
    if not len(chosen):
        raise UserError(f"No reference structure has a space group of number {first} to {last}.")
    return ref.chosen(chosen, ref.crystals.failures)
