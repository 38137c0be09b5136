"""The report's figures: distributions, coverage against thresholds, FAD against sample size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.metrics.coverage import sweep
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.reporting.svg import Chart, label

if TYPE_CHECKING:
    from crysmetrics.reporting.report import Report

_MOST_BINS = 40
_MOST_GROUPS = 12


@dataclass(frozen=True)
class Figure:
    """An SVG with its heading and what the colours mean."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    note: str = ""


_SETS = (("gen", "generated"), ("ref", "reference"))


def distributions(report: Report) -> list[Figure]:
    """Draw histograms of what both sets are, as shares of each set."""
    found = []
    for column, title, unit, whole in (
        ("density", "Density", "g/cm³", False),
        ("energy", "Formation energy by ALIGNN", "eV/atom", False),
        ("volume_per_atom", "Volume per atom", "Å³", False),
        ("num_elements", "Number of elements", "", True),
    ):
        values = _columns(report, column)
        if values is not None:
            found.append(_histogram(title, unit, *values, whole=whole))
    above = energies_above_hull(report)
    if above is not None:
        found.append(above)
    groups = _columns(report, "space_group")
    if groups is not None:
        found.append(_space_groups(*groups))
    return found


def energies_above_hull(report: Report) -> Figure | None:
    """Draw the histogram of energies above the hull (CrysLDM, Figure 2), if there are any."""
    outcome = report.outcomes.get("stability")
    curve = outcome.series.get("e_above_hull") if outcome is not None else None
    if curve is None or not (total := int(np.sum(curve["structures"]))):
        return None
    edges = np.append(curve["from"], curve["to"][-1])
    shares = np.asarray(curve["structures"]) / total
    chart = Chart(
        "Energy above the hull of generated structures",
        f"Histogram of {total:,} structures; {shares[edges[:-1] < 0].sum():.1%} lie below 0 and "
        f"{shares[edges[1:] <= 0.1 + 1e-9].sum():.1%} below 0.1 eV/atom.",
        (float(edges[0]), float(edges[-1])),
        (0, 1.08 * float(shares.max())),
        "Energy above the hull (eV/atom)",
        "share of structures",
    )
    chart.area(edges, shares, "gen")
    chart.vertical(0.1)
    return Figure("Energy above the hull", chart.render(), _SETS[:1])


def _columns(report: Report, name: str) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Find a column of the tables of both sets, without what is missing."""
    values = []
    for role, _ in _SETS:
        table = report.per_structure.get(role)
        if table is None or name not in table:
            return None
        column = table[name].dropna().to_numpy(dtype=float)
        values.append(column[np.isfinite(column)])
    return (values[0], values[1]) if len(values[0]) and len(values[1]) else None


def _histogram(
    title: str, unit: str, gen: NDArray[Any], ref: NDArray[Any], *, whole: bool
) -> Figure:
    both = np.concatenate([gen, ref])
    note = ""
    if whole:
        edges = np.arange(both.min() - 0.5, both.max() + 1)
    else:
        # A few wild cells would leave all others in one bin.
        low, high = np.quantile(both, [0.005, 0.995])
        span = (high - low) or 1.0
        low, high = max(both.min(), low - 0.1 * span), min(both.max(), high + 0.1 * span)
        if not high > low:
            low, high = low - 0.5, high + 0.5
        outside = int(((gen < low) | (gen > high)).sum()), int(((ref < low) | (ref > high)).sum())
        if any(outside):
            note = f"Outside the figure: {outside[0]:,} generated, {outside[1]:,} reference."
        bins = min(_MOST_BINS, max(8, int(2 * len(both) ** (1 / 3))))
        edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(v, edges)[0] / len(v) for v in (gen, ref)]
    means = f"Mean {gen.mean():.3g} generated, {ref.mean():.3g} reference"
    chart = Chart(
        f"{title} of generated and reference structures",
        f"Histograms. {means} {unit}; medians {np.median(gen):.3g} and {np.median(ref):.3g}.",
        (float(edges[0]), float(edges[-1])),
        (0, 1.08 * max(float(s.max()) for s in shares)),
        f"{title} ({unit})" if unit else title,
        "share of structures",
        [(float(k), label(float(k))) for k in (edges[:-1] + 0.5)] if whole else None,
    )
    chart.area(edges, shares[1], "ref")
    chart.area(edges, shares[0], "gen")
    return Figure(title, chart.render(), _SETS, note)


def _space_groups(gen: NDArray[Any], ref: NDArray[Any]) -> Figure:
    counts = [Counter(v.astype(int).tolist()) for v in (gen, ref)]
    sizes = len(gen), len(ref)
    shares = {
        group: tuple(c[group] / n for c, n in zip(counts, sizes, strict=True))
        for group in set(counts[0]) | set(counts[1])
    }
    # Those that matter most to either set, in the order of their numbers.
    top = sorted(sorted(shares, key=lambda g: -max(shares[g]))[:_MOST_GROUPS])
    title = "Space group"
    chart = Chart(
        "Space groups of generated and reference structures",
        "Shares, generated and reference: "
        + "; ".join(f"{g or 'none'} {shares[g][0]:.1%} and {shares[g][1]:.1%}" for g in top),
        (-0.6, len(top) - 0.4),
        (0, 1.08 * max(max(shares[g]) for g in top)),
        "space group number (within 0.1 Å)",
        "share of structures",
        [(k, str(g) if g else "–") for k, g in enumerate(top)],
    )
    for k, group in enumerate(top):
        chart.bar(k - 0.38, k, shares[group][0], "gen")
        chart.bar(k, k + 0.38, shares[group][1], "ref")
    rest = [1 - sum(shares[g][k] for g in top) for k in (0, 1)]
    note = f"Others: {rest[0]:.1%} of generated, {rest[1]:.1%} of reference structures."
    return Figure(title, chart.render(), _SETS, note if max(rest) > 1e-9 else "")


def coverage_sweeps(report: Report) -> list[Figure]:
    """Draw COV-R and COV-P against each threshold (CDVAE, Figures 6 to 8)."""
    if "coverage" not in report.outcomes or report.thresholds is None:
        return []
    value = report.outcomes["coverage"].values["cov_precision"]
    settings = EvaluationSettings(thresholds=report.thresholds)
    table = sweep(
        report.outcomes["coverage"], settings, int(value.n_gen or 0), int(value.n_ref or 0)
    )
    legend = (("gen", "one crystal within both (Eq. 10)"), ("gen dashed", "as published"))
    found = []
    for side, short in (("recall", "COV-R"), ("precision", "COV-P")):
        for varied in ("structure", "composition"):
            part = table[table.varied == varied]
            x = part[f"{varied}_threshold"].to_numpy()
            limit = getattr(report.thresholds, varied)
            chart = Chart(
                f"{short} against the {varied} threshold",
                f"{short} rises from {part[f'cov_{side}'].iloc[0]:.2f} to "
                f"{part[f'cov_{side}'].iloc[-1]:.2f} as the {varied} threshold grows from 0 to "
                f"{x[-1]:g}; the threshold set is {limit:g}.",
                (0, float(x[-1]) or 1.0),
                (0, 1.04),
                f"{varied} threshold",
                short,
            )
            chart.vertical(limit)
            chart.line(x, part[f"cov_{side}_marginal"], "gen dashed")
            chart.line(x, part[f"cov_{side}"], "gen")
            found.append(Figure(f"{short}, {varied} threshold", chart.render(), legend))
    return found


def fad_by_size(report: Report) -> Figure | None:
    """Draw FAD of subsamples against their size, with the line that FAD∞ is read from."""
    curve = report.outcomes["fad"].series.get("fad_by_size") if "fad" in report.outcomes else None
    if curve is None or not len(curve["structures"]):
        return None
    sizes, distances = np.asarray(curve["structures"]), np.asarray(curve["fad"])
    slope, intercept = np.polyfit(1 / sizes, distances, 1)
    largest = 1 / sizes.min()
    bottom = min(0.0, intercept)
    distinct = np.unique(sizes)
    chosen = distinct[np.unique(np.linspace(0, len(distinct) - 1, 5).astype(int))]
    ticks = [(0.0, "∞")]
    for size in sorted(chosen.tolist(), reverse=True):  # those that would overlap are left out
        if 1 / size - ticks[-1][0] > 0.1 * largest:
            ticks.append((1 / size, f"{size:,}"))
    chart = Chart(
        "FAD against the number of generated structures",
        f"FAD falls from {distances[sizes == sizes.min()].mean():.3g} at {sizes.min():,} "
        f"structures to {distances[sizes == sizes.max()].mean():.3g} at {sizes.max():,}; the line "
        f"through all points gives {intercept:.3g} for infinitely many.",
        (0, 1.05 * largest),
        (bottom, 1.06 * float(distances.max())),
        "number of structures (spaced as 1/n)",
        "FAD",
        ticks,
    )
    chart.line([0, largest], [intercept, intercept + slope * largest], "ref dashed")
    chart.points(1 / sizes, distances, "gen")
    legend = (("gen", "random subsamples"), ("ref dashed", "line to infinitely many"))
    return Figure("FAD against sample size", chart.render(), legend)
