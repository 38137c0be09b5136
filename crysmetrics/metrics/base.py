"""The vocabulary of metrics: what a metric declares, and what computing it gives.

Metrics that are computed together are a `Measure`. A module of this package that declares one (as
`MEASURE`, or several as `MEASURES`) makes it known to everything else, see `metrics.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import MissingPackageError
from crysmetrics.features.sample import Sample
from crysmetrics.metrics.settings import EvaluationSettings

Better = Literal["higher", "lower"]
Role = Literal["gen", "ref", "train"]
"""The sets a measure may compare: generated structures, the reference, the training set."""
Columns = Mapping[str, NDArray[Any]]
"""Columns of a table with one row for each structure, by name."""


@dataclass(frozen=True)
class Metric:
    """One number: its key in JSON, name for people, unit, direction and source.

    Attributes:
        key, label, unit, better, source: as JSON, tables and reports show them.
        biased: whether its expected value depends on the number of generated structures, so that
            it is compared at equal numbers only.
        gated: whether `compare` looks at it by default.
        definition: a sentence that says what it measures, for reports and glossaries.
    """

    key: str
    label: str
    unit: str
    better: Better
    source: str
    biased: bool = False
    gated: bool = False
    definition: str = ""


@dataclass(frozen=True)
class Value:
    """A metric's value with its uncertainty; `value` is None where it is undefined.

    Attributes:
        value: in the metric's unit.
        stderr: standard error.
        ci95: 95 % interval; contains the value.
        n_gen: generated structures that entered, failures included where they count.
        n_ref: reference structures that entered; None if there is no reference.
        reason: why `value` is None.
        note: what to keep in mind when reading the value.
        skipped: whether it was not computed because a package is not installed.
    """

    value: float | None
    stderr: float | None = None
    ci95: tuple[float, float] | None = None
    n_gen: int | None = None
    n_ref: int | None = None
    reason: str | None = None
    note: str | None = None
    skipped: bool = False

    def with_note(self, note: str) -> Value:
        """Add something to keep in mind to what there was."""
        return replace(self, note=f"{self.note}; {note}" if self.note else note)


def undefined(reason: str, n_gen: int | None = None, n_ref: int | None = None) -> Value:
    """Make a value that does not exist, with the reason."""
    return Value(None, None, None, n_gen, n_ref, reason)


@dataclass(frozen=True)
class Outcome:
    """What a measure found: values by metric key, and columns for every structure."""

    values: Mapping[str, Value]
    per_structure: Columns = field(default_factory=dict)
    """Columns over the generated structures that were read."""
    per_reference: Columns = field(default_factory=dict)
    """Columns over the reference structures."""
    series: Mapping[str, Columns] = field(default_factory=dict)
    """Curves for figures: name -> columns."""
    failures: tuple[Mapping[str, str], ...] = ()
    """Beside structures that could not be read: `input`, `file`, `reason`."""
    deferred: Mapping[str, Callable[[], Value]] = field(default_factory=dict)
    """Values that take long and that others do not need: computed only if they are asked for."""

    def settled(self, wanted: Collection[str] | None) -> Outcome:
        """Compute the deferred values of some keys, or of all if None, and drop the others."""
        asked = {k: f for k, f in self.deferred.items() if wanted is None or k in wanted}
        values = {**self.values, **{key: compute() for key, compute in asked.items()}}
        return replace(self, values=values, deferred={})


@dataclass(frozen=True)
class Part:
    """Some of the generated structures of a set that is read in parts.

    Attributes:
        sample: those that could be read; at least one.
        start: structures read before them.
        keys: (B,) random numbers, uniform in [0, 1): a sample of the whole set has the smallest.
    """

    sample: Sample
    start: int
    keys: NDArray[np.float64]


class Accumulator(Protocol):
    """A measure over a set that is seen in parts and never held as a whole."""

    def update(self, part: Part) -> Columns:
        """Take in a part; returns the columns of its structures."""

    def compute(self, total: int) -> Outcome:
        """Compute the metrics of all parts.

        Args:
            total: generated structures, with those that could not be read.
        """


@dataclass(frozen=True)
class Measure:
    """Metrics computed together.

    Attributes:
        name: the module's name, or that with something after `_`.
        position: place in tables; smaller ones stand first.
        metrics: what it declares.
        compute: takes a `Sample` for each of `roles`, in this order, and `EvaluationSettings`.
        roles: the sets that it needs.
        features: names of the features it computes, which decide the options of its command.
        settings: names of the settings that its numbers depend on.
        accumulator: takes the samples of `roles` but the generated one, and settings; None where
            all structures are needed at once.
        paired: whether it compares each generated structure with one certain reference.
        on_request: whether it takes so long, as relaxations do, that only those who name it or its
            metrics get it.
        ranked: whether its metrics also exist for the best of several predictions, as `KEY_topK`.
    """

    name: str
    position: int
    metrics: tuple[Metric, ...]
    compute: Callable[..., Outcome]
    roles: tuple[Role, ...]
    features: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    accumulator: Callable[..., Accumulator] | None = None
    paired: bool = False
    on_request: bool = False
    ranked: bool = False

    def run(
        self,
        samples: Mapping[str, Sample],
        settings: EvaluationSettings,
        wanted: Collection[str] | None = None,
    ) -> Outcome:
        """Compute on samples by role.

        Args:
            samples: with all of `roles`.
            settings: of the evaluation.
            wanted: keys whose deferred values are computed; all if None.
        """
        outcome = self.compute(*(samples[role] for role in self.roles), settings)
        return outcome.settled(wanted)

    def accumulate(
        self, samples: Mapping[str, Sample], settings: EvaluationSettings
    ) -> Accumulator | None:
        """Begin to accumulate parts of the generated set beside the other samples."""
        if self.accumulator is None:
            return None
        return self.accumulator(*(samples[r] for r in self.roles if r != "gen"), settings)

    def undefined(self, reason: str) -> Outcome:
        """Make an outcome without values, with the reason."""
        return Outcome({m.key: undefined(reason) for m in self.metrics})

    def skipped(self, error: MissingPackageError) -> Outcome:
        """Make an outcome without values where a package is not installed."""
        value = replace(undefined(str(error)), skipped=True)
        return Outcome({m.key: value for m in self.metrics})


def random_generator(settings: EvaluationSettings, purpose: str) -> np.random.Generator:
    """Seed a generator for one purpose, so that one draw does not shift the next."""
    return np.random.default_rng([settings.seed, *purpose.encode()])
