"""Phase diagrams as pages whose points say what they are under the mouse, by Plotly."""

from __future__ import annotations

from typing import Any

import numpy as np

from crysmetrics.hull.diagram import DiagramPhase, HullDiagram
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

_TETRAHEDRON = np.array(
    [[0, 0, 0], [1, 0, 0], [0.5, 0.75**0.5, 0], [0.5, 0.75**0.5 / 3, (2 / 3) ** 0.5]]
)


def interactive_hull(diagram: HullDiagram) -> str:
    """Draw a phase diagram of two to four elements as a page of HTML that needs no network."""
    page: str = hull_figure(diagram).to_html(include_plotlyjs=True)
    return page


def hull_figure(diagram: HullDiagram) -> Any:
    """Make Plotly's `Figure` of a phase diagram of two to four elements."""
    from plotly import graph_objects as go

    figure = go.Figure()
    _add(figure, diagram, _line(diagram), "hull", mode="lines", line={"color": EDGE_COLOUR})
    for label, on_hull, found in KINDS:
        phases = phases_of_kind(diagram, on_hull, found)
        if phases:
            where = [(phase.shares, phase.energy) for phase in phases]
            _add(figure, diagram, where, label, **_look(phases, on_hull, found))
    if open_corners := diagram.corners_without_phase():
        where = [(diagram.corners[i], float(diagram.energies[i])) for i in open_corners]
        _add(
            figure,
            diagram,
            where,
            NO_PHASE,
            mode="markers",
            marker={"symbol": "circle-open", "size": 9, "color": EDGE_COLOUR},
            hovertext=[f"hull: {energy:.3f} eV/atom" for _, energy in where],
            hoverinfo="text",
        )
    symbols = [SYMBOLS[z] for z in diagram.elements]
    figure.update_layout(title="-".join(symbols), template="plotly_white", legend={"y": 0.5})
    if len(symbols) == 2:
        figure.update_layout(
            xaxis_title=f"share of {symbols[1]}", yaxis_title="formation energy (eV/atom)"
        )
    elif len(symbols) == 3:
        axes = zip(("aaxis", "baxis", "caxis"), symbols, strict=True)
        figure.update_layout(ternary={axis: {"title": {"text": name}} for axis, name in axes})
    else:
        hidden = {axis: {"visible": False} for axis in ("xaxis", "yaxis", "zaxis")}
        figure.update_layout(scene=hidden)
    return figure


def _look(phases: list[DiagramPhase], on_hull: bool, found: bool) -> dict[str, Any]:
    """Say how phases of a kind are drawn, and what they say."""
    if on_hull:
        colour: Any = FOUND_COLOUR if found else STABLE_COLOUR
    else:
        colour = UNSTABLE_COLOUR
    texts = [
        f"{phase.formula} {phase.name}<br>formation energy {phase.energy:.3f} eV/atom<br>"
        + (
            f"on the hull{', found' if found else ''}"
            if on_hull
            else f"{phase.above:.3f} eV/atom above the hull{', found' if found else ''}"
        )
        for phase in phases
    ]
    shape = ("diamond" if found else "circle") if on_hull else ("cross" if found else "x")
    return {
        "mode": "markers+text" if on_hull else "markers",
        "marker": {"symbol": shape, "size": 11 if on_hull else 7, "color": colour},
        "text": [phase.formula for phase in phases] if on_hull else None,
        "textposition": "bottom center",
        "hovertext": texts,
        "hoverinfo": "text",
    }


def _line(diagram: HullDiagram) -> list[tuple[Any, float | None]]:
    """List the ends of all edges, with a gap after each."""
    gap = (np.full(len(diagram.elements), np.nan), None)
    found: list[tuple[Any, float | None]] = []
    for edge in diagram.edges:
        found += [(diagram.corners[i], float(diagram.energies[i])) for i in edge]
        found.append(gap)
    return found


def _add(
    figure: Any, diagram: HullDiagram, where: list[tuple[Any, Any]], name: str, **look: Any
) -> None:
    """Add points, or a line, at shares of the elements and energies."""
    from plotly import graph_objects as go

    shares = np.array([share for share, _ in where], dtype=float)
    columns = [[None if np.isnan(v) else float(v) for v in column] for column in shares.T]
    size = len(diagram.elements)
    if size == 2:
        trace: Any = go.Scatter(x=columns[1], y=[energy for _, energy in where], name=name, **look)
    elif size == 3:
        trace = go.Scatterternary(a=columns[0], b=columns[1], c=columns[2], name=name, **look)
        trace.cliponaxis = False  # points at the sides stay whole
    else:
        x, y, z = (
            [None if np.isnan(v) else float(v) for v in column]
            for column in (shares @ _TETRAHEDRON).T
        )
        trace = go.Scatter3d(x=x, y=y, z=z, name=name, **look)
    figure.add_trace(trace)
