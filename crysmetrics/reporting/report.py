"""Results: the `crysmetrics/1` document, and the table people see."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics._version import __version__
from crysmetrics.features.sample import Sample
from crysmetrics.io.json_files import json_text, write_json
from crysmetrics.metrics.base import Measure, Metric, Outcome, Value
from crysmetrics.metrics.settings import EvaluationSettings, Thresholds

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

SCHEMA = "crysmetrics/1"

_REPORTED_PACKAGES = ("numpy", "scipy", "pymatgen", "matminer", "smact")


@dataclass(frozen=True, repr=False)
class Report:
    """What an evaluation found.

    Attributes:
        metrics: values by key, in the order of the table.
        settings: what the numbers depend on beside structures and features.
        extractors: feature name -> `version` and `hash`.
        inputs: `gen` and `ref` -> `path`, `read`, `failed`, `sha256`.
        failures: every structure that failed: `input`, `file`, `reason`.
        versions: of the packages that made the numbers.
        timing: seconds by part; no part of comparisons.
        per_structure: input -> table, one row for each structure; failed ones last, with `reason`.
        outcomes: what each measure returned, by its name.
        samples: the sets themselves, `gen` and `ref`.
        thresholds: of coverage, with the name of the data set they belong to.
        declared: the metrics by key, and those of the best of K predictions.
        shown: structures to draw, if they were chosen on the way (see `reporting.structures`).
    """

    metrics: Mapping[str, Value]
    settings: Mapping[str, Any]
    extractors: Mapping[str, Mapping[str, str]]
    inputs: Mapping[str, Mapping[str, Any]]
    failures: tuple[Mapping[str, str], ...]
    versions: Mapping[str, str]
    timing: Mapping[str, float] = field(default_factory=dict)
    per_structure: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    samples: Mapping[str, Sample] = field(default_factory=dict)
    thresholds: Thresholds | None = None
    declared: Mapping[str, Metric] = field(default_factory=dict)
    shown: tuple[Mapping[str, Any], ...] | None = None

    def __str__(self) -> str:
        """Write the table of metrics, as commands print it."""
        from crysmetrics.console import as_text

        return as_text(self.table())

    def __repr__(self) -> str:
        inputs = ", ".join(f"{found['read']:,} {role}" for role, found in self.inputs.items())
        return f"<Report of {len(self.metrics)} metrics: {inputs}; print it for the table>"

    def __getitem__(self, key: str) -> float | None:
        """Look up the value of one metric."""
        return self.metrics[key].value

    def with_paths(self, **paths: str) -> Report:
        """Set other paths of `gen` and `ref`, for inputs that were moved."""
        inputs = {k: {**v, "path": paths.get(k, v["path"])} for k, v in self.inputs.items()}
        return replace(self, inputs=inputs)

    def as_json(self) -> dict[str, Any]:
        """Make the `crysmetrics/1` document."""
        return {
            "schema": SCHEMA,
            "metrics": {
                key: _metric_json(self.declared[key], value) for key, value in self.metrics.items()
            },
            "settings": dict(self.settings),
            "extractors": {k: dict(v) for k, v in sorted(self.extractors.items())},
            "inputs": {k: dict(v) for k, v in self.inputs.items()},
            "failures": [dict(f) for f in self.failures],
            "versions": dict(self.versions),
            "timing": {k: round(v, 3) for k, v in self.timing.items()},
        }

    def to_json(self) -> str:
        """Write the document as text."""
        return json_text(self.as_json())

    def save_json(self, path: str | Path) -> None:
        """Write the document, whole or not at all; `-` is standard output."""
        write_json(self.as_json(), path)

    def to_pandas(self) -> pd.DataFrame:
        """Make a table with one row for each metric."""
        import pandas as pd

        rows = []
        for key, entry in self.as_json()["metrics"].items():
            low, high = entry.pop("ci95") or (None, None)
            rows.append({"metric": key, **entry, "ci95_low": low, "ci95_high": high})
        return pd.DataFrame(rows).set_index("metric")

    def to_html(self, name: str | None = None) -> str:
        """Write the whole report as one HTML page that needs nothing beside it.

        Args:
            name: of the generated set; its path if not given.
        """
        from crysmetrics.reporting.html import render

        return render(self, name)

    def _repr_html_(self) -> str:
        """Show the metrics as a table in a notebook."""
        from crysmetrics.reporting.html import small_table

        return small_table(self)

    def table(self) -> Table:
        """Make a table for the terminal."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for title in ("Metric", "Value", "± (SE)", "95 % interval", "Unit", "Better", "n"):
            right = title in ("Value", "± (SE)", "95 % interval", "n")
            table.add_column(title, justify="right" if right else "left", no_wrap=True)
        for key, value in self.metrics.items():
            table.add_row(*_table_row(self.declared[key], value))
        return table


def _metric_json(metric: Metric, value: Value) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "value": _finite(value.value),
        "unit": metric.unit,
        "better": metric.better,
        "stderr": _finite(value.stderr),
        "ci95": None if value.ci95 is None else [float(v) for v in value.ci95],
        "n_gen": value.n_gen,
        "n_ref": value.n_ref,
    }
    for name in ("reason", "note"):
        if getattr(value, name) is not None:
            entry[name] = getattr(value, name)
    if value.skipped:
        entry["skipped"] = True
    return entry


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _table_row(metric: Metric, value: Value) -> tuple[str, ...]:
    counts = "/".join(f"{n:,}" for n in (value.n_gen, value.n_ref) if n is not None)
    better = "↑" if metric.better == "higher" else "↓"
    unit = "" if metric.unit in ("share", "1") else metric.unit
    if value.value is None:
        return metric.key, "–", "", "", unit, better, counts
    stderr = "" if value.stderr is None else f"{value.stderr:.4f}"
    interval = "" if value.ci95 is None else f"{value.ci95[0]:.4f} – {value.ci95[1]:.4f}"
    return metric.key, f"{value.value:.4f}", stderr, interval, unit, better, counts


def settings_json(measures: Sequence[Measure], settings: EvaluationSettings) -> dict[str, Any]:
    """Give the settings that the numbers of some measures depend on, as plain values."""
    names = dict.fromkeys(name for measure in measures for name in measure.settings)
    if "subset" in names and "valid" in settings.subset:
        names |= dict.fromkeys(("min_distance", "min_volume", "oxidation_states"))
    if settings.limit is not None:
        names |= dict.fromkeys(("limit", "seed"))
    if settings.reference_space_groups is not None:
        names |= {"reference_space_groups": None}
    return settings.as_json((*names, "protocol"))


def input_json(sample: Sample) -> dict[str, Any]:
    """Describe a set: its path, the numbers read and failed, and a hash of its content."""
    crystals = sample.crystals
    return {
        "path": sample.path,
        "read": len(crystals),
        "failed": len(crystals.failures),
        "sha256": crystals.sha256(),
    }


def versions() -> dict[str, str]:
    """List the versions of the packages that make the numbers."""
    found = {"crysmetrics": __version__, "python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
