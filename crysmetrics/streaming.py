"""Sets of any size in bounded memory: `crysmetrics evaluate --stream`.

Generated structures are read, featurised and forgotten part by part. Validity, EMDs, coverage and
the Fréchet distances themselves are those of the whole set, for which a few numbers of every
structure wait on disk; what needs all pairs, or many subsamples, of feature vectors is computed
on a random sample of them, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from typing import Any, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from crysmetrics.errors import InputError, MissingPackageError, UserError
from crysmetrics.evaluation import settings_json, versions
from crysmetrics.features.extractor import Run
from crysmetrics.features.registry import FRECHET_FEATURES
from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals
from crysmetrics.io.csv_files import write_csv
from crysmetrics.io.digest import SetDigest
from crysmetrics.io.reading import read_parts
from crysmetrics.metrics.alignn import energies, features
from crysmetrics.metrics.base import (
    Outcome,
    Value,
    all_measures,
    random_generator,
    skipped,
    undefined,
)
from crysmetrics.metrics.coverage import (
    coverage_values,
    distance_columns,
    fingerprints,
    num_measured,
)
from crysmetrics.metrics.diversity import mean_pairwise_distance
from crysmetrics.metrics.emd import densities, emd_value, num_elements
from crysmetrics.metrics.extrapolation import extrapolate
from crysmetrics.metrics.frechet import streamed_frechet_value
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.kernel import kernel_distance
from crysmetrics.metrics.moments import Moments, Reservoir
from crysmetrics.metrics.neighbours import Nearest, nearest_both_ways
from crysmetrics.metrics.validity import validity
from crysmetrics.protocols import Plan
from crysmetrics.reporting.report import Report
from crysmetrics.reporting.structure_tables import described, failures, tables
from crysmetrics.reporting.structures import chosen_structures, shown_structures
from crysmetrics.scratch import Columns

PART = 5_000
"""Structures held at a time."""
SAMPLE = 20_000
"""Feature vectors kept for what needs many of them at once."""

_KEPT_COLUMNS = ("density", "energy", "volume_per_atom", "num_elements", "space_group")
"""Of every structure, for EMDs and figures."""

Array = NDArray[np.float64]


def evaluate_stream(
    chosen: Plan,
    path: str,
    ref: Sample,
    run: Run | None = None,
    per_structure: TextIO | None = None,
    part: int = PART,
) -> Report:
    """The report of a plan on a set that need not fit into memory.

    Args:
        chosen: of `protocols.plan`; metrics on pairs and `uniqueness` are left undefined.
        path: anything `read` takes.
        ref: the reference, which is held.
        run: how features are computed.
        per_structure: where the rows of `per_structure.csv` go as they are found.
        part: structures held at a time; does not change the numbers beyond rounding.

    Raises:
        UserError: if nothing can be read, or the settings ask for a subset.
    """
    settings = chosen.settings
    if settings.subset != "all" or settings.limit or settings.reference_space_groups:
        raise UserError("--stream takes all structures; protocols that draw some go without it.")
    start = time.perf_counter()
    how = run or Run()
    stream = _Stream(chosen, ref, how)
    reading = 0.0
    parts = read_parts(
        path, part, id_column=how.id_column, cif_column=how.cif_column, workers=how.workers
    )
    while True:
        before = time.perf_counter()
        crystals = next(parts, None)
        reading += time.perf_counter() - before
        if crystals is None:
            break
        stream.add(crystals, path, per_structure)
    if not stream.read:
        raise InputError(f"{path} holds no structure that can be read.")
    report = stream.report(path)
    if per_structure is not None:
        stream.write_failures(per_structure)
    seconds = {"read": reading, **report.timing, "total": time.perf_counter() - start}
    return replace(report, timing=seconds)


class _Stream:
    """What is known of the parts seen so far."""

    def __init__(self, chosen: Plan, ref: Sample, run: Run) -> None:
        self.chosen, self.ref, self.run = chosen, ref, run
        self.settings = chosen.settings
        self.measures = set(chosen.measures)
        self.read = self.failed = 0
        self.valid = np.zeros(3, dtype=np.int64)
        self.failures: list[dict[str, str]] = []
        self.unread: list[dict[str, str]] = []
        self.header: pd.Series | None = None
        self.digest = SetDigest()
        self.columns, self.near = Columns(), Columns()
        self.recall = Nearest.nothing(len(ref))
        self.rng = random_generator(self.settings, "stream")
        self.moments: dict[str, Moments] = {}
        self.samples: dict[str, Reservoir] = {}
        self.extractors: dict[str, Any] = {}
        self.missing: dict[str, MissingPackageError] = {}
        self.best_rows: pd.DataFrame | None = None
        self.best = Crystals.empty()
        self.timing: dict[str, float] = {}

    def add(self, crystals: Crystals, path: str, rows: TextIO | None) -> None:
        """Take in one part."""
        self.read, self.failed = self.read + len(crystals), self.failed + len(crystals.failures)
        self.digest.add(crystals)
        self.unread += [failure._asdict() for failure in crystals.failures]
        sample = Sample(crystals.with_failures(()), "gen", path, self.run)
        if not len(crystals):
            return
        keys = self.rng.random(len(crystals))
        outcomes = [f(sample, keys) for name, f in self._steps() if name in self.measures]
        start = time.perf_counter()
        self.failures += failures(sample)
        table = tables([sample], [o for o in outcomes if o is not None])["gen"]
        table = described(table, sample)
        for name in _KEPT_COLUMNS:
            if name in table:
                self.columns.add(name, table[name].to_numpy(dtype=float))
        self._look_for_extremes(table, crystals)
        if rows is not None:
            write_csv(table, rows, header=self.header is None)
        self.header = table.dtypes
        self._count("description", time.perf_counter() - start)
        self.extractors |= sample.extractors
        for name, seconds in sample.seconds.items():
            self._count(f"features {name}, gen", seconds)

    def write_failures(self, rows: TextIO) -> None:
        """The last rows of the table: what could not be read."""
        if self.header is None or not self.unread:
            return
        columns = {
            name: False if kind is np.dtype(bool) else None for name, kind in self.header.items()
        }
        found = [{**columns, "id": f["file"], "reason": f["reason"]} for f in self.unread]
        write_csv(pd.DataFrame(found), rows, header=False)

    def _steps(self) -> Iterator[tuple[str, Callable[[Sample, Array], Outcome | None]]]:
        yield "validity", self._validity
        yield "emd", self._properties
        yield "emd_energy", self._energies
        yield "coverage", self._coverage
        yield "diversity", self._diversity
        yield "fad", self._alignn
        for name in FRECHET_FEATURES:
            yield f"frechet_{name}", partial(self._frechet, name)

    def _validity(self, sample: Sample, keys: Array) -> Outcome:
        outcome = validity(sample, None, self.settings)
        structure, composition = (outcome.per_structure[k] for k in ("struct_valid", "comp_valid"))
        self.valid += [structure.sum(), composition.sum(), (structure & composition).sum()]
        return outcome

    def _properties(self, sample: Sample, keys: Array) -> Outcome:
        found = {
            "density": densities(sample.crystals),
            "num_elements": num_elements(sample.crystals),
        }
        return Outcome({}, found)

    def _energies(self, sample: Sample, keys: Array) -> Outcome:
        return Outcome({}, {"energy": energies(sample)})

    def _coverage(self, sample: Sample, keys: Array) -> Outcome:
        limits = self.settings.thresholds
        precision, recall = nearest_both_ways(
            fingerprints(sample), fingerprints(self.ref), limits.structure, limits.composition
        )
        for field in fields(precision):
            self.near.add(field.name, getattr(precision, field.name))
        self.recall = self.recall.nearer(recall, self.read - len(sample))
        return Outcome({}, distance_columns(precision, self.ref.crystals.ids))

    def _diversity(self, sample: Sample, keys: Array) -> None:
        for name, points in zip(("structure", "composition"), fingerprints(sample), strict=True):
            finite = np.isfinite(points).all(axis=1)
            self._sampled(f"diversity {name}", points[finite], keys[finite])

    def _alignn(self, sample: Sample, keys: Array) -> None:
        self._gather("alignn", features(sample), keys[sample.features("alignn").ok])

    def _frechet(self, name: str, sample: Sample, keys: Array) -> None:
        try:
            found = sample.features(name)
        except MissingPackageError as error:
            if self.chosen.explicit:
                raise
            self.missing[name] = error
            return
        self._gather(name, found.values[found.ok], keys[found.ok])

    def _gather(self, name: str, rows: Array, keys: Array) -> None:
        self.moments[name] = self.moments.get(name, Moments.nothing(rows.shape[1])).with_rows(rows)
        self._sampled(name, rows, keys)

    def _sampled(self, name: str, rows: Array, keys: Array) -> None:
        self.samples.setdefault(name, Reservoir(SAMPLE)).add(rows, keys)

    def _look_for_extremes(self, table: pd.DataFrame, crystals: Crystals) -> None:
        """Keep those structures of the ones kept and a new part that the report will draw."""
        if "struct_valid" not in table:
            return
        rows = table if self.best_rows is None else pd.concat([self.best_rows, table])
        rows = rows.reset_index(drop=True)
        both = Crystals.concatenate([self.best, crystals.with_failures(())])
        worst, best = chosen_structures(rows)
        chosen = np.array([*worst, *best], dtype=int)
        self.best_rows, self.best = rows.iloc[chosen], both[chosen]

    def _count(self, name: str, seconds: float) -> None:
        self.timing[name] = self.timing.get(name, 0.0) + seconds

    # --- the end ---------------------------------------------------------------------------

    def report(self, path: str) -> Report:
        """All metrics of all parts."""
        total, ref = self.read + self.failed, self.ref
        outcomes: dict[str, Outcome] = {}
        for name in self.chosen.measures:
            start = time.perf_counter()
            outcomes[name] = self._outcome(name, total)
            self._count(name, time.perf_counter() - start)
        values: dict[str, Value] = {}
        for outcome in outcomes.values():
            values |= outcome.values
        settings = settings_json([all_measures()[n] for n in self.chosen.measures], self.settings)
        if total > SAMPLE:
            settings["sample"] = SAMPLE
        reference = tables([ref], [o for o in outcomes.values() if o.per_reference])["ref"]
        crystals = ref.crystals
        return Report(
            metrics={key: values[key] for key in self.chosen.metrics},
            settings=settings,
            extractors={
                name: {"version": e.version, "hash": e.hash}
                for name, e in {**ref.extractors, **self.extractors}.items()
            },
            inputs={
                "gen": {
                    "path": path,
                    "read": self.read,
                    "failed": self.failed,
                    "sha256": self.digest.hexdigest(),
                },
                "ref": {
                    "path": ref.path,
                    "read": len(crystals),
                    "failed": len(crystals.failures),
                    "sha256": crystals.sha256(),
                },
            },
            failures=(
                *({"input": "gen", **failure} for failure in self.unread),
                *self.failures,
                *failures(ref),
            ),
            versions=versions(),
            timing=dict(self.timing),
            per_structure={
                # Not copied, so that only the column that is looked at need be in memory.
                "gen": pd.DataFrame({k: self.columns[k] for k in self.columns}, copy=False),
                "ref": described(reference, ref),
            },
            outcomes=outcomes,
            samples={"ref": ref},
            thresholds=self.settings.thresholds,
            shown=self._shown(reference),
        )

    def _shown(self, reference: pd.DataFrame) -> tuple[Any, ...]:
        if self.best_rows is None:
            return ()
        small = Report(
            {}, {}, {}, {}, (), {},
            per_structure={"gen": self.best_rows, "ref": described(reference, self.ref)},
            samples={"gen": Sample(self.best, "gen"), "ref": self.ref},
        )  # fmt: skip
        return tuple(shown_structures(small))

    def _outcome(self, name: str, total: int) -> Outcome:
        if name == "validity":
            keys = ("struct_validity", "comp_validity", "validity")
            counts = zip(keys, self.valid.tolist(), strict=True)
            return Outcome({k: share(count, total, n_gen=total) for k, count in counts})
        if name in ("emd", "emd_energy"):
            return self._emd(name)
        if name == "coverage":
            precision = Nearest(*(self.near[field.name] for field in fields(Nearest)))
            limits = self.settings.thresholds
            return Outcome(
                coverage_values(
                    precision, self.recall, limits, total, num_measured(fingerprints(self.ref))
                ),
                distance_columns(precision),
                distance_columns(self.recall),
            )
        if name == "diversity":
            found = {}
            for key, kind in (("struct", "structure"), ("comp", "composition")):
                rows = self.samples[f"diversity {kind}"].rows
                found[f"{key}_diversity"] = self._noted(mean_pairwise_distance(rows))
            return Outcome(found)
        if name == "fad":
            return self._fad()
        if name.startswith("frechet_"):
            kind = name.removeprefix("frechet_")
            if kind in self.missing:
                return skipped(all_measures()[name], self.missing[kind])
            theirs = self.ref.features(kind)
            rows = theirs.values[theirs.ok]
            return Outcome({f"fd_{kind}": self._frechet_value(f"fd_{kind}", kind, rows)})
        reason = "needs all structures at once, which --stream does not hold"
        return Outcome({m.key: undefined(reason) for m in all_measures()[name].metrics})

    def _emd(self, name: str) -> Outcome:
        theirs: dict[str, Array] = {
            "density": densities(self.ref.crystals),
            "num_elements": num_elements(self.ref.crystals),
        }
        if name == "emd_energy":
            theirs = {"energy": energies(self.ref)}
        found = {}
        for kind, column in theirs.items():
            rng = random_generator(self.settings, f"emd_{kind}")
            found[f"emd_{kind}"] = emd_value(self.columns[kind], column, rng)
        return Outcome(found, {}, theirs)

    def _fad(self) -> Outcome:
        theirs = features(self.ref)
        rows = self.samples["alignn"].rows
        rng = random_generator(self.settings, "fad_inf")
        infinite, sizes, distances = extrapolate(rows, theirs, rng)
        values = {
            "fad": self._frechet_value("fad", "alignn", theirs),
            "fad_inf": self._noted(infinite),
            "kad": self._noted(kernel_distance(rows, theirs)),
        }
        return Outcome(values, series={"fad_by_size": {"structures": sizes, "fad": distances}})

    def _frechet_value(self, key: str, name: str, theirs: Array) -> Value:
        rng = random_generator(self.settings, key)
        return streamed_frechet_value(self.moments[name], self.samples[name].rows, theirs, rng)

    def _noted(self, value: Value) -> Value:
        if self.read <= SAMPLE or value.value is None:
            return value
        return value.with_note(f"of a random sample of {SAMPLE:,} generated structures")
