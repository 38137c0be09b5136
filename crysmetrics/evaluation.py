"""From two sets of structures to a `Report`: the one path that CLI and Python API share."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from crysmetrics import references
from crysmetrics._version import __version__
from crysmetrics.errors import InputError, UserError
from crysmetrics.features.base import Run, Sample
from crysmetrics.features.cache import open_cache
from crysmetrics.io import Crystals, read
from crysmetrics.metrics.base import (
    Measure,
    Settings,
    Thresholds,
    Value,
    all_measures,
    parse_thresholds,
)
from crysmetrics.metrics.emd import MEASURE_OF_PROPERTY
from crysmetrics.report import Report

if TYPE_CHECKING:
    import pandas as pd

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
    if isinstance(structures, (str, os.PathLike)):
        path = os.fspath(structures)
        named = None if os.path.lexists(path) else references.find(path)
        if named is not None:  # an existing path wins over a name
            return references.load(path, named, role, run)
        crystals = read(path, workers=None if run is None else run.workers)
    elif isinstance(structures, Crystals):
        crystals = structures
    elif isinstance(structures, Iterable):
        crystals = Crystals.from_pymatgen(structures)
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
    return Sample(crystals, role, path, run)


def evaluate_measures(
    names: Sequence[str],
    gen: Any,
    ref: Any = None,
    settings: Settings | None = None,
    *,
    metrics: Sequence[str] | None = None,
    run: Run | None = None,
) -> Report:
    """Run some measures on one pair of sets, features shared between them.

    Args:
        names: of the measures: `validity`, `emd`, `coverage`, `diversity`, `frechet_crystalnn`, ...
        gen: the generated structures (see `as_sample`).
        ref: the reference, if a measure needs one.
        settings: the defaults if not given.
        metrics: keys to keep in the report; all that the measures declare by default.
        run: how features are computed.

    Raises:
        UserError: if a set can't be used, or a setting is none.
    """
    settings = settings or Settings()
    known = all_measures()
    measures = [known[name] for name in names]
    timing: dict[str, float] = {}
    with _timed(timing, "total"):
        with _timed(timing, "read"):
            gen_sample = as_sample(gen, "gen", run)
            ref_sample = None
            if any(m.needs_reference for m in measures):
                if ref is None:
                    raise UserError(f"{', '.join(names)} needs a reference.")
                ref_sample = as_sample(ref, "ref", run)
        outcomes = {}
        for measure in measures:
            with _timed(timing, measure.name):
                outcomes[measure.name] = measure.compute(gen_sample, ref_sample, settings)  # type: ignore[arg-type]
    samples = [s for s in (gen_sample, ref_sample) if s is not None]
    values: dict[str, Value] = {}
    for measure in measures:
        found = outcomes[measure.name].values
        values |= {m.key: found[m.key] for m in measure.metrics}
    if metrics is not None:
        values = {key: values[key] for key in metrics}
    return Report(
        metrics=values,
        settings=_settings_json(measures, settings),
        extractors={
            name: {"version": extractor.version, "hash": extractor.hash}
            for sample in samples
            for name, extractor in sample.extractors.items()
        },
        inputs={sample.role: _input_json(sample) for sample in samples},
        failures=tuple(failure for sample in samples for failure in _failures(sample)),
        versions=_versions(),
        timing=timing,
        per_structure=_tables(samples, [outcomes[m.name] for m in measures]),
        outcomes=outcomes,
    )


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


def _evaluate(
    names: list[str],
    gen: Any,
    ref: Any,
    options: dict[str, Any],
    metrics: Sequence[str] | None = None,
) -> Report:
    names_of_run = ("backend", "workers", "device", "alignn")
    chosen = {k: options.pop(k) for k in names_of_run if k in options}
    run = Run(cache=open_cache(options.pop("cache", None)), **chosen)
    if not isinstance(options.get("thresholds", Thresholds(0, 0)), Thresholds):
        options["thresholds"] = parse_thresholds(str(options["thresholds"]))
    return evaluate_measures(names, gen, ref, Settings(**options), metrics=metrics, run=run)


def _settings_json(measures: Sequence[Measure], settings: Settings) -> dict[str, Any]:
    names = dict.fromkeys(name for measure in measures for name in measure.settings)
    if "subset" in names and "valid" in settings.subset:
        names |= dict.fromkeys(("min_distance", "min_volume", "oxidation_states"))
    return settings.as_json((*names, "protocol"))


def _input_json(sample: Sample) -> dict[str, Any]:
    crystals = sample.crystals
    return {
        "path": sample.path,
        "read": len(crystals),
        "failed": len(crystals.failures),
        "sha256": crystals.sha256(),
    }


def _failures(sample: Sample) -> Iterator[dict[str, str]]:
    for failure in (*sample.crystals.failures, *sample.failed_features()):
        yield {"input": sample.role, "file": failure[0], "reason": failure[1]}


def _versions() -> dict[str, str]:
    versions = {"crysmetrics": __version__, "python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _tables(samples: Sequence[Sample], outcomes: Sequence[Any]) -> dict[str, pd.DataFrame]:
    """One row for each structure of a set: those read, in order, then those that failed."""
    import pandas as pd

    tables = {}
    for sample in samples:
        columns: dict[str, Any] = {"id": list(sample.crystals.ids)}
        for outcome in outcomes:
            columns |= outcome.per_structure if sample.role == "gen" else outcome.per_reference
        table = pd.DataFrame(columns)
        table["reason"] = table["id"].map(dict(sample.failed_features())).fillna("")
        if sample.crystals.failures:
            rows = [{"id": f.file, "reason": f.reason} for f in sample.crystals.failures]
            table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        tables[sample.role] = table
    return tables


@contextmanager
def _timed(timing: dict[str, float], part: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        timing[part] = time.perf_counter() - start
