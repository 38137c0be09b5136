"""Sets of any size in bounded memory: `crysmetrics evaluate --stream`.

Generated structures are read, featurised and forgotten part by part; each measure accumulates what
it needs (see `metrics.base.Accumulator`). Validity, EMDs, coverage and the Fréchet distances
themselves are those of the whole set; what needs all pairs, or many subsamples, of feature vectors
is computed on a random sample of them, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TextIO

import numpy as np
import pandas as pd

from crysmetrics.errors import InputError, MissingPackageError, UserError
from crysmetrics.evaluation import marked, refuse_missing_roles
from crysmetrics.features.e_above_hull import use_given
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals
from crysmetrics.io.csv_files import write_csv
from crysmetrics.io.digest import SetDigest
from crysmetrics.io.reading import read_parts
from crysmetrics.metrics import moments
from crysmetrics.metrics.base import Columns, Measure, Outcome, Part, Value, random_generator
from crysmetrics.metrics.registry import find_measures, metrics_of
from crysmetrics.protocols import Plan
from crysmetrics.reporting.report import Report, input_json, settings_json, versions
from crysmetrics.reporting.structure_tables import described, failures, tables
from crysmetrics.reporting.structures import DescribedSet, chosen_structures, draw_structures
from crysmetrics.spill import Columns as ColumnsOnDisk

PART = 5_000
"""Structures held at a time."""

_KEPT_COLUMNS = ("density", "energy", "volume_per_atom", "num_elements", "space_group")
"""Of every structure, for figures."""


def evaluate_stream(
    chosen: Plan,
    path: str,
    ref: Sample,
    run: Run | None = None,
    per_structure: TextIO | None = None,
    part: int = PART,
    train: Sample | None = None,
) -> Report:
    """Make the report of a plan on a set that need not fit into memory.

    Args:
        chosen: of `protocols.plan`; measures without an accumulator are left undefined, and those
            of pairs left out unless they are named.
        path: anything `read` takes.
        ref: the reference, which is held.
        run: how features are computed.
        per_structure: where the rows of `per_structure.csv` go as they are found.
        part: structures held at a time; does not change the numbers beyond rounding.
        train: the training set, if there is one; it is held.

    Raises:
        UserError: if nothing can be read, or the settings ask for a subset.
    """
    chosen = chosen.with_pairing(None)
    settings = chosen.settings
    if settings.subset != "all" or settings.limit or settings.reference_space_groups:
        raise UserError("--stream takes all structures; protocols that draw some go without it.")
    start = time.perf_counter()
    how = run or Run()
    others = {"ref": ref} if train is None else {"ref": ref, "train": train}
    stream = _Stream(chosen, path, others, how)
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
        stream.add(crystals, per_structure)
    if not stream.read:
        raise InputError(f"{path} holds no structure that can be read.")
    report = stream.report()
    if per_structure is not None:
        stream.write_failures(per_structure)
    seconds = {"read": reading, **report.timing, "total": time.perf_counter() - start}
    return marked(replace(report, timing=seconds))


class _Accumulation:
    """One measure over the parts seen so far, undefined where it can't be accumulated."""

    def __init__(self, measure: Measure, others: Mapping[str, Sample], chosen: Plan) -> None:
        self.measure, self.explicit, self.wanted = measure, chosen.explicit, chosen.metrics
        self.parts = measure.accumulate(others, chosen.settings)
        self.missing: MissingPackageError | None = None

    def update(self, part: Part) -> Columns:
        """Take in a part; no columns where a package is missing."""
        if self.parts is None or self.missing is not None:
            return {}
        try:
            return self.parts.update(part)
        except MissingPackageError as error:
            if self.explicit:
                raise
            self.missing = error
            return {}

    def compute(self, total: int) -> Outcome:
        """Compute the metrics of all parts."""
        if self.parts is None:
            return self.measure.undefined(
                "needs all structures at once, which --stream does not hold"
            )
        if self.missing is not None:
            return self.measure.skipped(self.missing)
        return self.parts.compute(total).settled(self.wanted)


class _Stream:
    """What is known of the parts seen so far."""

    def __init__(self, chosen: Plan, path: str, others: Mapping[str, Sample], run: Run) -> None:
        self.chosen, self.path, self.others, self.run = chosen, path, others, run
        self.measures = find_measures(chosen.measures)
        refuse_missing_roles(self.measures, ["gen", *others])
        self.accumulations = [_Accumulation(m, others, chosen) for m in self.measures]
        self.read = 0
        self.energies_given: bool | None = None
        self.failures: list[dict[str, str]] = []
        self.unread: list[dict[str, str]] = []
        self.header: pd.Series | None = None
        self.digest = SetDigest()
        self.columns = ColumnsOnDisk()
        self.rng = random_generator(chosen.settings, "stream")
        self.extractors: dict[str, Extractor] = {}
        self.extremes: DescribedSet | None = None
        self.timing: dict[str, float] = {}

    def add(self, crystals: Crystals, rows: TextIO | None) -> None:
        """Take in one part."""
        self.digest.add(crystals)
        self.unread += [failure._asdict() for failure in crystals.failures]
        start = self.read
        self.read += len(crystals)
        if not len(crystals):
            return
        sample = Sample(crystals.with_failures(()), "gen", self.path, self.run)
        if self.run.stability is None and self.energies_given is not False:
            # The first part decides for all, so that no share mixes two kinds of energies.
            self.energies_given = use_given(sample, always=self.energies_given is True)
        part = Part(sample, start, self.rng.random(len(crystals)))
        outcomes = [Outcome({}, one.update(part)) for one in self.accumulations]
        began = time.perf_counter()
        self._describe(sample, outcomes, rows)
        self._count("description", time.perf_counter() - began)
        self.extractors |= sample.extractors
        for name, seconds in sample.seconds.items():
            self._count(f"features {name}, gen", seconds)

    def _describe(self, sample: Sample, outcomes: list[Outcome], rows: TextIO | None) -> None:
        """Write the rows of a part, and keep of them what figures need."""
        self.failures += failures(sample)
        table = described(tables([sample], outcomes)["gen"], sample)
        for name in _KEPT_COLUMNS:
            if name in table:
                self.columns.add(name, table[name].to_numpy(dtype=float))
        self._look_for_extremes(table, sample.crystals)
        if rows is not None:
            write_csv(table, rows, header=self.header is None)
        self.header = table.dtypes

    def write_failures(self, rows: TextIO) -> None:
        """Write the last rows of the table: what could not be read."""
        if self.header is None or not self.unread:
            return
        columns = {
            name: False if kind is np.dtype(bool) else None for name, kind in self.header.items()
        }
        found = [{**columns, "id": f["file"], "reason": f["reason"]} for f in self.unread]
        write_csv(pd.DataFrame(found), rows, header=False)

    def _look_for_extremes(self, table: pd.DataFrame, crystals: Crystals) -> None:
        """Keep those structures of the ones kept and a new part that the report will draw."""
        if "struct_valid" not in table:
            return
        if self.extremes is not None:
            table = pd.concat([self.extremes.table, table])
            crystals = Crystals.concatenate([self.extremes.crystals, crystals])
        table = table.reset_index(drop=True)
        worst, best = chosen_structures(table)
        chosen = np.array([*worst, *best], dtype=int)
        self.extremes = DescribedSet(table.iloc[chosen], crystals[chosen])

    def _count(self, name: str, seconds: float) -> None:
        self.timing[name] = self.timing.get(name, 0.0) + seconds

    def report(self) -> Report:
        """Compute all metrics of all parts."""
        total = self.read + len(self.unread)
        outcomes: dict[str, Outcome] = {}
        for one in self.accumulations:
            start = time.perf_counter()
            outcomes[one.measure.name] = one.compute(total)
            self._count(one.measure.name, time.perf_counter() - start)
        values: dict[str, Value] = {}
        for outcome in outcomes.values():
            values |= outcome.values
        settings = settings_json(self.measures, self.chosen.settings)
        if total > moments.SAMPLE:
            settings["sample"] = moments.SAMPLE
        held = tables(list(self.others.values()), list(outcomes.values()))
        by_role = {role: described(held[role], self.others[role]) for role in held}
        extractors = {**self.extractors}
        for sample in self.others.values():
            extractors |= sample.extractors
        return Report(
            metrics={key: values[key] for key in self.chosen.metrics},
            settings=settings,
            extractors={
                name: {"version": e.version, "hash": e.hash} for name, e in extractors.items()
            },
            inputs={
                "gen": {
                    "path": self.path,
                    "read": self.read,
                    "failed": len(self.unread),
                    "sha256": self.digest.hexdigest(),
                },
                **{role: input_json(sample) for role, sample in self.others.items()},
            },
            failures=(
                *({"input": "gen", **failure} for failure in self.unread),
                *self.failures,
                *(failure for sample in self.others.values() for failure in failures(sample)),
            ),
            versions=versions(),
            timing=dict(self.timing),
            per_structure={
                # Not copied, so that only the column that is looked at need be in memory.
                "gen": pd.DataFrame({k: self.columns[k] for k in self.columns}, copy=False),
                **by_role,
            },
            outcomes=outcomes,
            samples=dict(self.others),
            thresholds=self.chosen.settings.thresholds,
            declared=metrics_of(self.measures),
            shown=self._shown(by_role["ref"]),
        )

    def _shown(self, reference: pd.DataFrame) -> tuple[dict[str, Any], ...]:
        if self.extremes is None:
            return ()
        ref = DescribedSet(reference, self.others["ref"].crystals)
        return tuple(draw_structures(self.extremes, ref))
