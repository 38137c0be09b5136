"""Phase diagrams: which phases are on the hull, and where the hull runs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

from crysmetrics.hull.diagram import FoundPhase, HullDiagram, hull_diagram
from crysmetrics.hull.table import ON_HULL, HullTable, load_hull, phases_of
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.reporting.hull_plots import save_diagram
from crysmetrics.reporting.hull_style import SHOWN_UNSTABLE
from crysmetrics.reporting.interactive_hulls import hull_figure

SYSTEMS = [(3, 8), (11, 17), (3, 26, 8), (3, 26, 15, 8)]


def drawn(diagram: HullDiagram) -> dict[str, list[str]]:
    """List what the page says of phases, by the name of their kind."""
    figure = hull_figure(diagram)
    return {trace.name: list(trace.hovertext or ()) for trace in figure.data}


@pytest.mark.parametrize("elements", SYSTEMS)
def test_the_hull_is_that_of_the_shipped_table(elements: tuple[int, ...]) -> None:
    table = load_hull()
    diagram = hull_diagram(table, elements)
    for edge in diagram.edges:
        middle = diagram.corners[list(edge)].mean(axis=0)
        amounts = {z: s for z, s in zip(elements, middle, strict=True) if s > 0}
        found = diagram.energies[list(edge)].mean()
        assert found == pytest.approx(table.hull.hull_energy(amounts), abs=ON_HULL)


@pytest.mark.parametrize("elements", SYSTEMS)
def test_pages_draw_as_stable_what_the_table_of_phases_says_is(elements: tuple[int, ...]) -> None:
    table = load_hull()
    above: dict[str, float] = {}
    for phase in phases_of(table, elements):
        if len(Composition(phase.formula)) > 1:
            above.setdefault(phase.formula, phase.e_above_hull)
    kinds = drawn(hull_diagram(table, elements))
    stable = {text.split()[0] for text in kinds["on the hull"]}
    assert stable - {SYMBOLS[z] for z in elements} == {n for n, e in above.items() if e <= ON_HULL}
    unstable = {text.split()[0] for text in kinds.get("above the hull", [])}
    assert unstable == {n for n, e in above.items() if ON_HULL < e <= SHOWN_UNSTABLE}


def test_a_phase_above_a_hull_whose_phases_are_unknown_is_not_stable() -> None:
    table = HullTable(
        ("a", "b"),
        ({3: 2, 26: 1, 8: 2}, {26: 2, 8: 3}),
        np.array([-1.8, -1.7]),
        np.array([0.049, 0.0]),
        "made up",
    )
    diagram = hull_diagram(table, (3, 26, 8))
    kinds = drawn(diagram)
    assert [text.split()[0] for text in kinds["above the hull"]] == ["Li2FeO2"]
    assert "0.049 eV/atom above the hull" in kinds["above the hull"][0]
    assert "Li2FeO2" not in {text.split()[0] for text in kinds["on the hull"]}
    (corner,) = diagram.corners_without_phase()
    np.testing.assert_allclose(diagram.corners[corner], [0.4, 0.2, 0.4])
    assert diagram.energies[corner] == pytest.approx(-1.849, abs=1e-6)
    # What is found at that energy takes the corner, and what is found lower changes the hull.
    for energy, distance in ((-1.849, 0.049), (-2.0, 0.2)):
        lower = hull_diagram(table, (3, 26, 8), [FoundPhase("new", {3: 2, 26: 1, 8: 2}, energy)])
        assert [phase.name for phase in lower.on_hull()] == ["b", "new"]
        assert not lower.corners_without_phase()
        assert energy + distance == pytest.approx(-1.8)
    higher = hull_diagram(table, (3, 26, 8), [FoundPhase("new", {3: 1, 26: 1, 8: 2}, -1.5)])
    (found,) = [phase for phase in higher.phases if phase.found]
    assert found.above == pytest.approx(-1.5 - higher_energy(table), abs=1e-6)
    assert drawn(higher)["found, above the hull"] or found.above > SHOWN_UNSTABLE


def higher_energy(table: HullTable) -> float:
    return table.hull.hull_energy({3: 1, 26: 1, 8: 2})


def test_a_table_of_energies_alone_has_pymatgens_hull() -> None:
    rng = np.random.default_rng(5)
    elements = (3, 26, 8)
    compositions = [
        dict(zip(part, rng.integers(1, 4, len(part)).tolist(), strict=True))
        for size in (2, 3)
        for part in combinations(elements, size)
        for _ in range(6)
    ]
    energies = rng.uniform(-2, 0.1, len(compositions))
    ids = tuple(f"p{i}" for i in range(len(compositions)))
    table = HullTable(ids, tuple(compositions), energies, np.full(len(ids), np.nan), "made up")
    entries = [PDEntry(Element.from_Z(z).symbol, 0.0) for z in elements]
    for name, amounts, energy in zip(ids, compositions, energies, strict=True):
        formula = Composition({Element.from_Z(z): n for z, n in amounts.items()})
        entries.append(PDEntry(formula, energy * formula.num_atoms, attribute=name))
    peer = PhaseDiagram(entries)
    diagram = hull_diagram(table, elements)
    assert {p.name for p in diagram.on_hull()} == {e.attribute for e in peer.stable_entries} - {
        None
    }
    assert not diagram.corners_without_phase()
    by_name = {entry.attribute: entry for entry in entries}
    for phase in diagram.phases:
        if phase.name:
            wanted = peer.get_e_above_hull(by_name[phase.name], allow_negative=True)
            assert phase.above == pytest.approx(max(0.0, wanted), abs=1e-8)


def test_figures_of_two_to_four_elements(tmp_path) -> None:
    table = load_hull()
    for elements in SYSTEMS:
        diagram = hull_diagram(table, elements)
        save_diagram(diagram, tmp_path / "hull.html")
        assert "Plotly.newPlot" in (tmp_path / "hull.html").read_text()
        if len(elements) < 4:
            save_diagram(diagram, tmp_path / "hull.svg")
            assert (tmp_path / "hull.svg").stat().st_size > 10_000
