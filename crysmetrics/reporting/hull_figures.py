"""The report's hulls: known phases and generated structures of the commonest chemical systems."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
_LEAST_SLANT = -1e-4
"""Of the normal of a facet: those of systems of two elements stand upright at the sides."""
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


def _known(
    table: HullTable, elements: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """List shares of the elements (K, n), energies (K,) in eV/atom, formulas of known phases."""
    from crysmetrics.reporting.hull_plots import composition

    shares = [*np.eye(len(elements))]
    energies, names = [0.0] * len(elements), [SYMBOLS[z] for z in elements]
    for i in table.hull.phases_within(elements):
        amounts = table.compositions[i]
        if len(amounts) > 1:
            shares.append(_shares(Counter(amounts), elements))
            energies.append(float(table.hull.energies[i]))
            names.append(composition(amounts).reduced_formula)
    return np.array(shares), np.array(energies), names


def _shares(counts: Counter[int], elements: tuple[int, ...]) -> NDArray[np.float64]:
    numbers = np.array([counts[z] for z in elements], dtype=float)
    return numbers / numbers.sum()


def _binary(
    table: HullTable, elements: tuple[int, ...], atoms: list[Any], above: NDArray[np.float64]
) -> Figure:
    shares, energies, names = _known(table, elements)
    where = shares[:, 1]
    corners = _lower_line(where, energies)
    x = np.array([_shares(Counter(a.tolist()), elements)[1] for a in atoms])
    y = above + np.interp(x, where[corners], energies[corners])
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
    chart.line(where[corners], energies[corners], "ref")
    for i in corners:
        if 0 < where[i] < 1:
            chart.text(where[i], energies[i], names[i])
    chart.points(x[drawn], y[drawn], "gen")
    return Figure(_title(elements), chart.render(), _LEGEND, _note(drawn))


def _lower_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """List the points of the lower convex hull, from left to right."""
    found: list[int] = []
    for i in np.lexsort((y, x)).tolist():
        if found and x[i] == x[found[-1]]:
            continue  # a higher phase of the same composition
        while len(found) > 1:
            a, b = found[-2], found[-1]
            if (y[b] - y[a]) * (x[i] - x[a]) < (y[i] - y[a]) * (x[b] - x[a]):
                break
            found.pop()
        found.append(i)
    return found


def _ternary(
    table: HullTable, elements: tuple[int, ...], atoms: list[Any], above: NDArray[np.float64]
) -> Figure:
    shares, energies, names = _known(table, elements)
    chart = Triangle(
        f"Convex hull of {_title(elements)}",
        _describe(above),
        tuple(SYMBOLS[z] for z in elements),
    )
    edges = _lower_edges(shares, energies)
    for a, b in edges:
        chart.line(shares[[a, b]], "ref")
    for i in sorted({i for edge in edges for i in edge}):
        if shares[i].max() < 1:
            chart.text(shares[i], names[i])
    drawn = above <= _HIGHEST
    places = np.array([_shares(Counter(a.tolist()), elements) for a in atoms])
    chart.points(places[drawn], "gen")
    return Figure(_title(elements), chart.render(), _LEGEND, _note(drawn))


def _lower_edges(
    shares: NDArray[np.float64], energies: NDArray[np.float64]
) -> list[tuple[int, int]]:
    """List the edges of the lower convex hull of three elements, as pairs of points."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull = ConvexHull(np.column_stack([shares[:, :2], energies]), qhull_options="Qt QJ Pp")
    except QhullError:  # no phases but the elements
        return [(0, 1), (0, 2), (1, 2)]
    edges = {
        (min(a, b), max(a, b))
        for facet, normal in zip(hull.simplices.tolist(), hull.equations[:, 2], strict=True)
        if normal < _LEAST_SLANT
        for a, b in zip(facet, (*facet[1:], facet[0]), strict=True)
    }
    return sorted(edges)


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
