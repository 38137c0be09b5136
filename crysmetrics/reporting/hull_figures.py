"""The report's hulls: known phases and generated structures of the commonest chemical systems."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.hull.diagram import hull_diagram
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.reporting.figures import Figure
from crysmetrics.reporting.svg import Chart, Triangle

if TYPE_CHECKING:
    from crysmetrics.hull.table import HullTable
    from crysmetrics.reporting.report import Report

_MOST = 4
"""Systems that are drawn."""
_HIGHEST = 0.5
"""eV/atom above the hull up to which generated structures are drawn."""
_LEGEND = (("ref", "known phases"), ("gen", "generated"))


def hull_figures(report: Report) -> list[Figure]:
    """Draw the hulls of the systems of two or three elements with most generated structures.

    Systems of more elements have no picture. Only structures with an energy above the hull count.
    """
    from crysmetrics.above_hull import DEFAULT
    from crysmetrics.hull.table import SHIPPED, load_hull

    gen, rows = report.samples.get("gen"), report.per_structure.get("gen")
    if "stability" not in report.outcomes or gen is None or rows is None:
        return []
    above = rows["e_above_hull"].to_numpy(dtype=float)[: len(gen)]
    members: dict[tuple[int, ...], list[int]] = {}
    for i, crystal in enumerate(gen.crystals):
        elements = tuple(sorted({*crystal.atomic_numbers.tolist()}))
        if 2 <= len(elements) <= 3 and np.isfinite(above[i]):
            members.setdefault(elements, []).append(i)
    table = load_hull((gen.run.stability or DEFAULT).hull or SHIPPED)
    found = []
    for elements in sorted(members, key=lambda e: (-len(members[e]), e))[:_MOST]:
        atoms = [gen.crystals[i].atomic_numbers for i in members[elements]]
        draw = _binary if len(elements) == 2 else _ternary
        found.append(draw(table, elements, atoms, above[members[elements]]))
    return found


def _shares(counts: Counter[int], elements: tuple[int, ...]) -> NDArray[np.float64]:
    numbers = np.array([counts[z] for z in elements], dtype=float)
    return numbers / numbers.sum()


def _binary(
    table: HullTable, elements: tuple[int, ...], atoms: list[Any], above: NDArray[np.float64]
) -> Figure:
    diagram = hull_diagram(table, elements)
    order = np.argsort(diagram.corners[:, 1])
    where, energies = diagram.corners[order, 1], diagram.energies[order]
    x = np.array([_shares(Counter(a.tolist()), elements)[1] for a in atoms])
    y = above + np.interp(x, where, energies)
    drawn = above <= _HIGHEST
    low = min(float(energies.min()), float(y.min()))
    high = max(0.0, float(y[drawn].max(initial=0.0)))
    room = 0.08 * ((high - low) or 1.0)
    chart = Chart(
        f"Convex hull of {_title(elements)}",
        _describe(above),
        (0.0, 1.0),
        (low - room, high + room),
        f"share of {SYMBOLS[elements[1]]}",
        "formation energy (eV/atom)",
    )
    chart.line(where, energies, "ref")
    for phase in diagram.on_hull():
        chart.text(phase.shares[1], phase.energy, phase.formula)
    chart.points(x[drawn], y[drawn], "gen")
    return Figure(_title(elements), chart.render(), _LEGEND, _note(drawn))


def _ternary(
    table: HullTable, elements: tuple[int, ...], atoms: list[Any], above: NDArray[np.float64]
) -> Figure:
    diagram = hull_diagram(table, elements)
    chart = Triangle(
        f"Convex hull of {_title(elements)}",
        _describe(above),
        tuple(SYMBOLS[z] for z in elements),
    )
    for edge in diagram.edges:
        chart.line(diagram.corners[list(edge)], "ref")
    for phase in diagram.on_hull():
        chart.text(np.array(phase.shares), phase.formula)
    drawn = above <= _HIGHEST
    places = np.array([_shares(Counter(a.tolist()), elements) for a in atoms])
    chart.points(places[drawn], "gen")
    return Figure(_title(elements), chart.render(), _LEGEND, _note(drawn))


def _title(elements: tuple[int, ...]) -> str:
    return "–".join(SYMBOLS[z] for z in elements)


def _describe(above: NDArray[np.float64]) -> str:
    return (
        f"{len(above):,} generated structures; {int((above <= 0).sum()):,} on or below the hull of "
        f"known phases, {int((above <= 0.1).sum()):,} within 0.1 eV/atom of it."
    )


def _note(drawn: NDArray[np.bool_]) -> str:
    outside = int((~drawn).sum())
    return f"{outside:,} more than {_HIGHEST} eV/atom above the hull." if outside else ""
