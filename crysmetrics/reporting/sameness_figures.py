"""The report's figures of sameness: uniqueness against sample size, what is new, and how far."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING

import numpy as np

from crysmetrics.reporting.figures import Figure
from crysmetrics.reporting.svg import Chart

if TYPE_CHECKING:
    from crysmetrics.reporting.report import Report

_NOVELTY = (
    ("novelty_known_composition", "composition", "new crystal of a known composition"),
    ("novelty_new_composition", "system", "new composition of a known chemical system"),
    ("novelty_new_system", "neither", "of a new chemical system"),
)


def sameness_figures(report: Report) -> list[Figure]:
    """Draw what the report knows about repetitions and about the training set."""
    found = (_uniqueness_by_size(report), _what_is_new(report), _distances(report))
    return [figure for figure in found if figure is not None]


def _uniqueness_by_size(report: Report) -> Figure | None:
    outcome = report.outcomes.get("uniqueness")
    curve = None if outcome is None else outcome.series.get("uniqueness_by_size")
    if outcome is None or curve is None or len(curve["structures"]) < 2:
        return None
    value = outcome.values["uniqueness"]
    if value.value is None or value.n_gen is None:
        return None
    sizes = np.log10([*curve["structures"], value.n_gen])
    shares = np.array([*curve["uniqueness"], value.value])
    low, high = (np.asarray(curve[side]) for side in ("low", "high"))
    chart = Chart(
        "Uniqueness against the number of structures",
        f"Of {value.n_gen:,} structures a share of {value.value:.3g} is distinct; of a tenth of "
        f"them {np.interp(sizes[-1] - 1, sizes, shares):.3g} would be.",
        (0, float(sizes[-1]) or 1.0),
        (0, 1.05),
        "number of structures",
        "share of distinct crystals",
        [(float(k), f"{10**k:,}") for k in range(floor(log10(value.n_gen)) + 1)],
    )
    chart.line(sizes[:-1], low, "gen dashed")
    chart.line(sizes[:-1], high, "gen dashed")
    chart.line(sizes, shares, "gen")
    legend = (("gen", "expected of so many"), ("gen dashed", "95 % interval"))
    return Figure("Uniqueness against sample size", chart.render(), legend)


def _what_is_new(report: Report) -> Figure | None:
    values = [report.metrics.get(key) for key, _, _ in _NOVELTY]
    novelty = report.metrics.get("novelty")
    if novelty is None or any(value is None or value.value is None for value in values):
        return None
    shares = [
        float(value.value) for value in values if value is not None and value.value is not None
    ]
    texts = [f"{share:.1%} {text}" for share, (_, _, text) in zip(shares, _NOVELTY, strict=True)]
    chart = Chart(
        "What is new about the generated structures",
        f"{', '.join(texts)}; the others are known or can't be compared.",
        (-0.6, 3.6),
        (0, 1.05 * max(*shares, 1 - sum(shares), 0.05)),
        "what of it the training set has",
        "share of structures",
        [(0, "crystal"), *((k + 1, name) for k, (_, name, _) in enumerate(_NOVELTY))],
    )
    chart.bar(-0.38, 0.38, max(0.0, 1 - sum(shares)), "ref")
    for k, share in enumerate(shares):
        chart.bar(k + 0.62, k + 1.38, share, "gen")
    legend = (("gen", "novel"), ("ref", "known, or failed"))
    return Figure("What is new", chart.render(), legend)


def _distances(report: Report) -> Figure | None:
    """Draw histograms of the distances to the nearest other and the nearest known structure."""
    table = report.per_structure.get("gen")
    if table is None:
        return None
    columns = [name for name in ("amd_to_other", "amd_to_known") if name in table]
    values = {name: table[name].dropna().to_numpy(dtype=float) for name in columns}
    values = {name: column for name, column in values.items() if len(column)}
    if not values:
        return None
    titles = {"amd_to_other": ("gen", "nearest other"), "amd_to_known": ("ref", "nearest known")}
    # A few that lie far from everything would leave all others in one bin.
    top = max(float(np.quantile(column, 0.98)) for column in values.values()) or 1.0
    edges = np.linspace(0, top, 31)
    shares = {name: np.histogram(v, edges)[0] / len(v) for name, v in values.items()}
    medians = [f"{titles[n][1]} {np.median(v):.3g}" for n, v in values.items()]
    chart = Chart(
        "Distances to the nearest structures",
        f"Histograms of AMD distances. Medians in Å: {', '.join(medians)}.",
        (0, top),
        (0, 1.08 * max(float(share.max()) for share in shares.values()) or 1.0),
        "AMD distance (Å), whatever the elements",
        "share of structures",
    )
    for name, share in shares.items():
        chart.area(edges, share, titles[name][0])
    outside = max(int((column > top).sum()) for column in values.values())
    note = f"Up to {outside:,} structures lie farther away." if outside else ""
    legend = tuple(titles[name] for name in values)
    return Figure("Distance to the nearest structure", chart.render(), legend, note)
