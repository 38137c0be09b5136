"""Figures of hulls: phase diagrams of chemical systems, histograms of energies above the hull."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.reporting.hull_style import (
    EDGE_COLOUR,
    FOUND_COLOUR,
    KINDS,
    NO_PHASE,
    STABLE_COLOUR,
    UNSTABLE_COLOUR,
    phases_of_kind,
)

if TYPE_CHECKING:
    from crysmetrics.hull.diagram import HullDiagram
    from crysmetrics.reporting.report import Report

FIGURES = (".png", ".svg", ".pdf")
_TRIANGLE = np.array([[0, 0], [1, 0], [0.5, 0.75**0.5]])


def check_figure(path: str | Path | None, interactive: bool = False) -> None:
    """Refuse a name that says no kind of figure.

    Raises:
        UserError: naming the kinds there are.
    """
    kinds = (*FIGURES, ".html") if interactive else FIGURES
    if path is not None and Path(path).suffix.lower() not in kinds:
        raise UserError(f"{path}: figures are written as {', '.join(kinds[:-1])} or {kinds[-1]}.")


def save_histogram(report: Report, path: str | Path) -> None:
    """Draw how energies above the hull are distributed, as CrysLDM's Figure 2."""
    found = report.outcomes["stability"].series["e_above_hull"]
    low, high, counts = (np.asarray(found[name]) for name in ("from", "to", "structures"))
    figure, axes = new_figure(7, 4)
    axes.bar(low, counts, high - low, align="edge", edgecolor="white", linewidth=0.5)
    axes.axvline(0.1, color="grey", linestyle="--", linewidth=1)
    axes.set(xlabel="Energy above the hull (eV/atom)", ylabel="structures")
    save_figure(figure, path)


def save_diagram(diagram: HullDiagram, path: str | Path) -> None:
    """Draw a phase diagram of two or three elements, of four as .html too.

    Phases on the hull are drawn as dots, phases up to `SHOWN_UNSTABLE` above it as crosses.

    Raises:
        UserError: for more elements than can be drawn.
    """
    size = len(diagram.elements)
    interactive = Path(path).suffix.lower() == ".html"
    if not 2 <= size <= (4 if interactive else 3):
        raise UserError(
            f"Hulls of two or three elements are drawn, of four as .html; this one has {size}."
        )
    if interactive:
        from crysmetrics.reporting.interactive_hulls import interactive_hull

        with atomic_file(path) as temporary:
            temporary.write_text(interactive_hull(diagram), encoding="utf-8")
        return
    figure, axes = new_figure(7, 5.5)
    places = _binary_places if size == 2 else _ternary_places
    _draw(diagram, axes, places)
    if size == 2:
        second = SYMBOLS[diagram.elements[1]]
        axes.set(
            xlabel=f"share of {second}", ylabel="Formation energy (eV/atom)", xlim=(-0.03, 1.03)
        )
    else:
        axes.set_aspect("equal")
        axes.axis("off")
    axes.legend(fontsize="small", frameon=False, loc="upper left" if size == 3 else "best")
    save_figure(figure, path)


def _binary_places(shares: Any, energies: Any) -> NDArray[np.float64]:
    return np.column_stack([np.asarray(shares).reshape(-1, 2)[:, 1], energies])


def _ternary_places(shares: Any, energies: Any) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.asarray(shares).reshape(-1, 3) @ _TRIANGLE
    return found


def _draw(diagram: HullDiagram, axes: Any, places: Callable[..., NDArray[np.float64]]) -> None:
    corners = places(diagram.corners, diagram.energies)
    for edge in diagram.edges:
        axes.plot(*corners[list(edge)].T, color=EDGE_COLOUR, linewidth=1, zorder=1)
    for label, on_hull, found in KINDS:
        phases = phases_of_kind(diagram, on_hull, found)
        if not phases:
            continue
        at = places([p.shares for p in phases], [p.energy for p in phases])
        stable = FOUND_COLOUR if found else STABLE_COLOUR
        axes.scatter(
            *at.T,
            marker=("D" if found else "o") if on_hull else ("+" if found else "x"),
            color=stable if on_hull else UNSTABLE_COLOUR,
            s=24,
            zorder=3 if on_hull else 2,
            label=label,
        )
        for phase, place in zip(phases, at, strict=True):
            if on_hull:
                axes.annotate(
                    phase.formula,
                    place,
                    textcoords="offset points",
                    xytext=(4, 4 if len(diagram.elements) > 2 else -12),
                    fontsize="small",
                )
    if open_corners := diagram.corners_without_phase():
        axes.scatter(
            *corners[open_corners].T,
            marker="o",
            facecolors="white",
            edgecolors=EDGE_COLOUR,
            s=24,
            zorder=1.5,
            label=NO_PHASE,
        )


def new_figure(width: float, height: float) -> tuple[Any, Any]:
    """Make a figure (inches) with one set of axes, without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure, whole or not at all."""
    kind = Path(path).suffix.lower()[1:]
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150, metadata=None)
