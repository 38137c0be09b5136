"""Leaderboards: many results in one table, the best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.errors import UserError
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.reporting.documents import sizes_differ
from crysmetrics.reporting.tables import (
    escape_markdown,
    heading,
    shortfall_notes,
    shown,
    wide_table,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def run_names(paths: Sequence[str]) -> list[str]:
    """Name each result after its folder, or its file where that is not metrics.json."""
    names = []
    for path in map(Path, paths):
        file = path.absolute()
        is_default = file.name == "metrics.json"
        names.append(
            file.parent.name if is_default else (file.name if path.is_dir() else path.stem)
        )
    # Those that would be equal have their whole path.
    return [n if names.count(n) == 1 else str(p) for n, p in zip(names, paths, strict=True)]


def leaderboard(
    documents: Mapping[str, Mapping[str, Any]],
    by: str | None = None,
    metrics: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Order results in a table with a row for each, the best first.

    Args:
        documents: `crysmetrics/1` documents that can be compared, by name.
        by: the metric that orders them; None for the mean of their ranks in all metrics that
            all results have, and that can be compared at these numbers of structures.
        metrics: keys to show; all by default.

    Returns:
        Columns `rank`, `model`, `n_gen`, `mean_rank`, and each metric with its standard error.

    Raises:
        UserError: if there is no such metric in any result, a name occurs twice, or `by` depends
            on the number of structures and that differs.
    """
    if len(set(documents)) < 1:
        raise UserError("There is nothing to rank.")
    table = wide_table(documents)
    present = [key for key in all_metrics() if key in table]
    for key in (*(metrics or ()), *([by] if by else ())):
        if key not in present:
            raise UserError(f"No result holds a metric {key!r}; there are {', '.join(present)}.")
    keys = [key for key in present if metrics is None or key in metrics]
    unequal = unequal_numbers(documents)
    if by in unequal:
        raise UserError(
            f"{by} depends on the number of structures, which differs; rank by another metric, or "
            "evaluate equal numbers."
        )
    ranks = {}
    for key in keys:
        values = table[key].astype(float)
        if values.notna().all() and key not in unequal:
            ascending = all_metrics()[key].better == "lower"
            ranks[key] = values.rank(ascending=ascending, method="average")
    table["mean_rank"] = np.mean(list(ranks.values()), axis=0) if ranks else np.nan
    order = "mean_rank" if by is None else by
    ascending = by is None or all_metrics()[by].better == "lower"
    table = table.sort_values(order, ascending=ascending, kind="stable", na_position="last")
    table.insert(0, "rank", range(1, len(table) + 1))
    shown_keys = [by, *(k for k in keys if k != by)] if by else keys
    columns = [c for key in shown_keys for c in (key, f"{key}_stderr")]
    return table[["rank", "model", "n_gen", "mean_rank", *columns]].reset_index(drop=True)


def unequal_numbers(documents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List the metrics that depend on the number of structures, where that differs."""
    found = []
    for key, metric in all_metrics().items():
        entries = [d["metrics"][key] for d in documents.values() if key in d["metrics"]]
        sizes = [
            e["n_gen"] for e in entries if e.get("n_gen") is not None and e["value"] is not None
        ]
        if metric.biased and sizes_differ(sizes):
            found.append(key)
    return found


def leaderboard_notes(documents: Mapping[str, Mapping[str, Any]], table: pd.DataFrame) -> list[str]:
    """List what a reader of the table must know of numbers of structures."""
    notes = shortfall_notes(documents)
    if unequal := [key for key in unequal_numbers(documents) if key in table]:
        names = ", ".join(unequal)
        notes.append(
            f"The numbers of structures differ; {names} depend on them, and are left out of the "
            "mean rank."
        )
    return notes


def leaderboard_table(table: pd.DataFrame) -> Table:
    """Make a table for the terminal."""
    from rich.table import Table

    keys = _keys(table)
    result = Table(box=None, pad_edge=False)
    for title in ("", "Model", "n", "Mean rank", *map(_short, keys)):
        result.add_column(title, justify="left" if title == "Model" else "right", no_wrap=True)
    for row in _rows(table, keys):
        result.add_row(*row)
    return result


def leaderboard_markdown(table: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """Write a table in GitHub-flavoured Markdown."""
    keys = _keys(table)
    titles = ["", "Model", "n", "Mean rank", *map(heading, keys)]
    lines = ["| " + " | ".join(titles) + " |", "| ---: | --- |" + " ---: |" * (len(titles) - 2)]
    for number, model, *rest in _rows(table, keys):
        lines.append("| " + " | ".join([number, escape_markdown(model), *rest]) + " |")
    lines += ["", *(f"- {escape_markdown(note)}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _keys(table: pd.DataFrame) -> list[str]:
    declared = all_metrics()
    return [name for name in table.columns if name in declared]


def _short(key: str) -> str:
    return f"{key} {'↑' if all_metrics()[key].better == 'higher' else '↓'}"


def _rows(table: pd.DataFrame, keys: Sequence[str]) -> list[list[str]]:
    declared = all_metrics()
    rows = []
    for row in table.to_dict("records"):
        mean = row["mean_rank"]
        cells = [str(row["rank"]), str(row["model"]), f"{row['n_gen']:,}"]
        cells.append("–" if mean != mean else f"{mean:.2f}")
        for key in keys:
            value, error = (_known(row[k]) for k in (key, f"{key}_stderr"))
            cells.append(shown(value, declared[key].unit, error))
        rows.append(cells)
    return rows


def _known(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
