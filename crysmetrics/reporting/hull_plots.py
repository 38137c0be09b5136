"""Figures of hulls: phase diagrams of chemical systems, histograms of energies above the hull."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file

if TYPE_CHECKING:
    from crysmetrics.hull.table import HullTable
    from crysmetrics.reporting.report import Report

FIGURES = (".png", ".svg", ".pdf")
SHOWN_UNSTABLE = 0.2
"""eV/atom above the hull up to which phases are drawn."""


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


def phase_diagram(table: HullTable, elements: Sequence[int], more: Sequence[Any] = ()) -> Any:
    """Make pymatgen's `PhaseDiagram` of a chemical system.

    A phase that is published above the hull has that distance in its name: what it decomposes
    into may be missing in the table, so that it lies on the hull of those that are there.

    Args:
        table: known phases.
        elements: atomic numbers.
        more: pymatgen entries (formation energies of all atoms) besides the known ones.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    from crysmetrics.hull.table import ON_HULL

    hull = table.hull_of_phases
    entries = [PDEntry(composition({z: 1}), 0.0) for z in elements]
    for i in hull.phases_within(elements):
        known = composition(table.compositions[i])
        energy = float(hull.energies[i]) * known.num_atoms
        above = float(table.published[i])
        name = f"{known.reduced_formula} (+{above:.3f})" if above > ON_HULL else None
        entries.append(PDEntry(known, energy, name=name, attribute=table.ids[i]))
    return PhaseDiagram([*entries, *more])


def composition(amounts: Any) -> Any:
    """Convert atoms of each element to pymatgen's `Composition`."""
    from pymatgen.core import Composition, Element

    return Composition({Element.from_Z(int(z)): float(n) for z, n in amounts.items()})


def save_diagram(diagram: Any, path: str | Path) -> None:
    """Draw a phase diagram of two or three elements, of four as .html too.

    Raises:
        UserError: for more elements than can be drawn.
    """
    from pymatgen.analysis.phase_diagram import PDPlotter

    size = len(diagram.elements)
    interactive = Path(path).suffix.lower() == ".html"
    if not 2 <= size <= (4 if interactive else 3):
        raise UserError(
            f"Hulls of two or three elements are drawn, of four as .html; this one has {size}."
        )
    if interactive:
        plotter = PDPlotter(diagram, show_unstable=SHOWN_UNSTABLE, backend="plotly")
        with atomic_file(path) as temporary:
            temporary.write_text(
                plotter.get_plot().to_html(include_plotlyjs=True), encoding="utf-8"
            )
        return
    figure, axes = new_figure(7, 5.5)
    if size == 2:
        _draw_binary(diagram, axes)
    else:
        _draw_ternary(diagram, axes)
    save_figure(figure, path)


def _draw_binary(diagram: Any, axes: Any) -> None:
    second = diagram.elements[1]

    def place(entry: Any) -> tuple[float, float]:
        share = entry.composition.get_atomic_fraction(second)
        return share, diagram.get_form_energy_per_atom(entry)

    stable = sorted(place(entry) for entry in diagram.stable_entries)
    axes.plot(*zip(*stable, strict=True), "o-", color="#1b6ca8")
    for entry in diagram.stable_entries:
        axes.annotate(
            entry.name, place(entry), textcoords="offset points", xytext=(4, -12), fontsize="small"
        )
    near = [e for e in diagram.unstable_entries if _above(diagram, e) <= SHOWN_UNSTABLE]
    if near:
        axes.plot(*zip(*map(place, near), strict=True), "x", color="#c0392b")
    axes.set(xlabel=f"share of {second}", ylabel="Formation energy (eV/atom)", xlim=(-0.03, 1.03))


def _draw_ternary(diagram: Any, axes: Any) -> None:
    corners = np.array([[0, 0], [1, 0], [0.5, 0.75**0.5]])

    def place(entry: Any) -> Any:
        shares = [entry.composition.get_atomic_fraction(e) for e in diagram.elements]
        return np.array(shares) @ corners

    for facet in diagram.facets:
        points = np.array([place(diagram.qhull_entries[i]) for i in (*facet, facet[0])])
        axes.plot(*points.T, color="#9ab7cc", linewidth=0.8, zorder=1)
    near = [e for e in diagram.unstable_entries if _above(diagram, e) <= SHOWN_UNSTABLE]
    if near:
        axes.scatter(*np.array([place(e) for e in near]).T, marker="x", color="#c0392b", s=18)
    for entry in diagram.stable_entries:
        axes.scatter(*place(entry), color="#1b6ca8", zorder=2, s=24)
        axes.annotate(
            entry.name, place(entry), textcoords="offset points", xytext=(4, 4), fontsize="small"
        )
    axes.set_aspect("equal")
    axes.axis("off")


def _above(diagram: Any, entry: Any) -> float:
    return float(diagram.get_e_above_hull(entry, allow_negative=True))


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
