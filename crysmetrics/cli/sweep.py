"""Coverage against thresholds, as a table or a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysmetrics.cli.options import save_table
from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file
from crysmetrics.metrics.coverage import sweep
from crysmetrics.metrics.settings import EvaluationSettings

if TYPE_CHECKING:
    from crysmetrics.reporting.report import Report

_FIGURES = (".png", ".svg", ".pdf")


def check_sweep_path(path: str | None) -> None:
    """Raise `UserError` if a sweep can't be written under this name."""
    if path is not None and Path(path).suffix.lower() not in (".csv", *_FIGURES):
        raise UserError(f"{path}: a sweep is written as .csv, .png, .svg or .pdf.")


def save_sweep(report: Report, settings: EvaluationSettings, path: str) -> None:
    """Write the sweep of CDVAE's Figures 6 to 8 to `path`, whose suffix says how."""
    suffix = Path(path).suffix.lower()
    found = report.metrics["cov_precision"]
    table = sweep(
        report.outcomes["coverage"], settings, int(found.n_gen or 0), int(found.n_ref or 0)
    )
    if suffix == ".csv":
        save_table(table, path)
        return
    figure = _draw(table, settings)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=150, metadata=None)


def _draw(table: Any, settings: EvaluationSettings) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharey=True)
    for row, side in zip(axes, ("recall", "precision"), strict=True):
        for ax, varied in zip(row, ("structure", "composition"), strict=True):
            part = table[table.varied == varied]
            x = part[f"{varied}_threshold"]
            ax.plot(x, part[f"cov_{side}"], label="one crystal within both (Eq. 10)")
            ax.plot(x, part[f"cov_{side}_marginal"], "--", label="as published")
            ax.axvline(getattr(settings.thresholds, varied), color="grey", lw=0.8)
            ax.set(xlabel=f"{varied} threshold", ylabel=f"COV-{side[0].upper()}", ylim=(0, 1.02))
    axes[0, 0].legend(fontsize="small")
    return figure
