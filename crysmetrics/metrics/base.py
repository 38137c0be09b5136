"""The vocabulary of metrics: declarations, values, settings, and the table of all of them.

A family of metrics that are computed together is a `Measure`; declaring one makes it known to
the CLI, to JSON, and to reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import MissingPackageError, UserError
from crysmetrics.features.sample import Sample

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Metric:
    """One number: its key in JSON, name for people, unit, direction and source.

    Attributes:
        key, label, unit, better, source: as JSON, tables and reports show them.
        biased: whether its expected value depends on the number of generated structures, so that
            it is compared at equal numbers only.
        gated: whether `compare` looks at it by default.
    """

    key: str
    label: str
    unit: str
    better: Better
    source: str
    biased: bool = False
    gated: bool = False


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
        """The same value with something to keep in mind, beside what there was."""
        return replace(self, note=f"{self.note}; {note}" if self.note else note)


def undefined(reason: str, n_gen: int | None = None, n_ref: int | None = None) -> Value:
    """A value that does not exist, and why."""
    return Value(None, None, None, n_gen, n_ref, reason)


@dataclass(frozen=True)
class Thresholds:
    """Largest distances at which one crystal covers another (CDVAE, Appendix G)."""

    structure: float
    composition: float
    name: str | None = None


THRESHOLDS: dict[str, Thresholds] = {
    "mp20": Thresholds(0.4, 10.0, "mp20"),
    "perov5": Thresholds(0.2, 4.0, "perov5"),
    "carbon24": Thresholds(0.2, 4.0, "carbon24"),
}


def parse_thresholds(text: str) -> Thresholds:
    """Thresholds of a data set's name, or of `STRUCTURE,COMPOSITION`.

    Raises:
        UserError: if it is neither.
    """
    if text in THRESHOLDS:
        return THRESHOLDS[text]
    try:
        structure, composition = (float(part) for part in text.split(","))
    except ValueError:
        known = ", ".join(THRESHOLDS)
        raise UserError(
            f"Thresholds are {known}, or two numbers such as 0.4,10 (structure, composition); "
            f"not {text!r}."
        ) from None
    if not (0 <= structure < math.inf and 0 <= composition < math.inf):
        raise UserError(f"Thresholds must be finite and not negative; not {text!r}.")
    return Thresholds(structure, composition)


@dataclass(frozen=True)
class Settings:
    """Everything that decides a number beside the structures and the features.

    Attributes:
        min_distance: Å; structural validity asks for larger distances.
        min_volume: Å³; structural validity asks for at least this.
        oxidation_states: set of states for composition validity.
        thresholds: of coverage.
        subset: generated structures that enter EMDs: `all`, `N`, `valid:all`, or `valid:N`.
        seed: of all random draws.
        limit: generated structures that are drawn before anything else, if there are more.
        reference_space_groups: the first and the last number of those that reference structures
            may have (within 0.1 Å); the others are left out before anything else.
        top: numbers of predictions among which the best counts, in match rates.
        pairing: what predictions and references are paired by: `auto` or `order`.
        metre: whether all predictions of a composition are compared with all its references.
        stol, angle_tol, ltol: tolerances of StructureMatcher: of sites as a share of (V/N)^(1/3),
            of angles in degrees, of lengths as a share.
        protocol: name of the paper's set-up that chose these settings, if one did.
    """

    min_distance: float = 0.5
    min_volume: float = 0.1
    oxidation_states: str = "smact14"
    thresholds: Thresholds = THRESHOLDS["mp20"]
    subset: str = "all"
    seed: int = 0
    limit: int | None = None
    reference_space_groups: tuple[int, int] | None = None
    top: tuple[int, ...] = (1,)
    pairing: str = "auto"
    metre: bool = True
    stol: float = 0.5
    angle_tol: float = 10.0
    ltol: float = 0.3
    protocol: str | None = None

    def as_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Those of these names, as plain values."""
        values: dict[str, Any] = {}
        for name in names:
            value = getattr(self, name)
            if isinstance(value, Thresholds):
                value = {"structure": value.structure, "composition": value.composition}
            values[name] = value
        return values


@dataclass(frozen=True)
class Outcome:
    """What a measure found: values by metric key, and columns for every structure."""

    values: Mapping[str, Value]
    per_structure: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Columns over the generated structures that were read."""
    per_reference: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Columns over the reference structures."""
    series: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    """Curves for figures: name -> columns."""
    failures: tuple[Mapping[str, str], ...] = ()
    """Beside structures that could not be read: `input`, `file`, `reason`."""


@dataclass(frozen=True)
class Measure:
    """Metrics computed together.

    Attributes:
        name: as the CLI has it.
        metrics: what it declares.
        compute: takes the generated set, the reference (None if not needed) and settings.
        needs_reference: whether there must be one.
        settings: names of the settings that its numbers depend on.
        paired: whether it compares each generated structure with one certain reference.
        ranked: whether its metrics also exist for the best of several predictions, as `KEY_topK`.
    """

    name: str
    metrics: tuple[Metric, ...]
    compute: Callable[[Sample, Sample, Settings], Outcome]
    needs_reference: bool
    settings: tuple[str, ...] = ()
    paired: bool = False
    ranked: bool = False


def skipped(measure: Measure, error: MissingPackageError) -> Outcome:
    """What a measure gives where its package is not installed: no values, and the reason."""
    value = replace(undefined(str(error)), skipped=True)
    return Outcome({m.key: value for m in measure.metrics})


_MODULES = ("validity", "emd", "coverage", "diversity", "fad", "frechet", "uniqueness", "matching")
"""Modules of this package that declare a `MEASURE` or `MEASURES`, in the order of tables."""


def all_measures() -> dict[str, Measure]:
    """Every measure by name; imports their modules."""
    found: list[Measure] = []
    for name in _MODULES:
        module = import_module(f"crysmetrics.metrics.{name}")
        found += getattr(module, "MEASURES", None) or [module.MEASURE]
    return {measure.name: measure for measure in found}


def all_metrics() -> dict[str, Metric]:
    """Every metric by key; keys of the form `KEY_topK` are known for every K."""
    found = _Metrics()
    for measure in all_measures().values():
        found |= {m.key: m for m in measure.metrics}
        if measure.ranked:
            found.ranked |= {m.key for m in measure.metrics}
            for top in USUAL_TOPS:
                found |= {top_key(m.key, top): found[top_key(m.key, top)] for m in measure.metrics}
    return found


USUAL_TOPS = (5, 10, 20)
"""Numbers of predictions that tables have a place for."""


def top_key(key: str, top: int) -> str:
    """Key of a metric for the best of the first `top` predictions."""
    return key if top == 1 else f"{key}_top{top}"


class _Metrics(dict[str, Metric]):
    """Metrics by key, with those of the best of K predictions made when asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ranked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or self._parts(key) is not None

    def __missing__(self, key: str) -> Metric:
        parts = self._parts(key)
        if parts is None:
            raise KeyError(key)
        metric = self[parts[0]]
        label = f"{metric.label}, best of {parts[1]}"
        return replace(metric, key=key, label=label, gated=False)

    def _parts(self, key: object) -> tuple[str, str] | None:
        name, found, top = str(key).rpartition("_top")
        good = found and name in self.ranked and top.isascii() and top.isdigit() and top[0] != "0"
        return (name, top) if good and top != "1" else None


def random_generator(settings: Settings, purpose: str) -> np.random.Generator:
    """A generator for one purpose, so that one draw does not shift the next."""
    return np.random.default_rng([settings.seed, *purpose.encode()])
