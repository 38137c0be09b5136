"""`report.html` of several models: every metric side by side, with intervals and links."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from crysmetrics._version import __version__
from crysmetrics.metrics.registry import all_metrics
from crysmetrics.metrics.settings import ROLE_TITLES
from crysmetrics.reporting.html import report_asset
from crysmetrics.reporting.leaderboard import unequal_numbers
from crysmetrics.reporting.tables import Document, heading, shortfall_notes, shown

_WIDTH, _HEIGHT = 120, 18
"""Pixels of the picture of an interval."""


def render_comparison(documents: Mapping[str, Document]) -> str:
    """Write the page, complete with styles.

    Args:
        documents: `crysmetrics/1`, by name of the model; the full report of each lies in the folder
            of that name.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(report_asset("comparison.html.j2"))
    first = next(iter(documents.values()))
    unequal = unequal_numbers(documents)
    return template.render(
        version=__version__,
        style=report_asset("report.css"),
        models=[
            {
                "name": name,
                "link": f"{quote(name)}/report.html",
                "read": document["inputs"]["gen"]["read"],
                "failed": document["inputs"]["gen"]["failed"],
            }
            for name, document in documents.items()
        ],
        others={
            ROLE_TITLES[role]: found
            for role, found in first["inputs"].items()
            if role in ROLE_TITLES and role != "gen"
        },
        protocol=first["settings"].get("protocol"),
        rows=[_row(key, documents) for key in all_metrics() if _has(key, documents)],
        notes=[
            *shortfall_notes(documents),
            *(
                f"{key} depends on the number of structures, which differs: not to be compared."
                for key in unequal
                if _has(key, documents)
            ),
        ],
    )


def _has(key: str, documents: Mapping[str, Document]) -> bool:
    return any(d["metrics"].get(key, {}).get("value") is not None for d in documents.values())


def _row(key: str, documents: Mapping[str, Document]) -> dict[str, Any]:
    """Lay out one metric: a cell for each model, on a common scale of intervals."""
    metric = all_metrics()[key]
    entries = [d["metrics"].get(key, {}) for d in documents.values()]
    values = [e["value"] for e in entries if e.get("value") is not None]
    choose: Any = max if metric.better == "higher" else min
    bounds = [
        x for e in entries if e.get("value") is not None for x in e.get("ci95") or [e["value"]]
    ]
    low, high = min(bounds), max(bounds)
    return {
        "key": key,
        "heading": heading(key),
        "definition": metric.definition,
        "cells": [
            {
                "text": shown(e.get("value"), metric.unit, e.get("stderr")),
                "best": len(values) > 1 and e.get("value") == choose(values),
                "svg": _interval(e, low, high),
                "reason": e.get("reason", ""),
            }
            for e in entries
        ],
    }


def _interval(entry: Mapping[str, Any], low: float, high: float) -> str:
    """Draw a value with its 95 % interval as SVG, between the bounds of all models."""
    if entry.get("value") is None:
        return ""
    span = high - low or 1.0

    def x(value: float) -> float:
        return 6 + (value - low) / span * (_WIDTH - 12)

    value = float(entry["value"])
    first, last = entry.get("ci95") or (value, value)
    middle = _HEIGHT / 2
    title = escape(f"95 % interval {first:.4g} to {last:.4g}")
    return (
        f'<svg class="chart interval" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f"<title>{title}</title>"
        f'<line class="line gen" x1="{x(first):.1f}" x2="{x(last):.1f}" y1="{middle}" '
        f'y2="{middle}"/><circle class="gen dot" cx="{x(value):.1f}" cy="{middle}" r="4"/></svg>'
    )
