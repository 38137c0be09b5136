"""The report's hulls of chemical systems, and stable structures beside what relaxation made."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from sets import one

import crysmetrics
from crysmetrics import above_hull
from crysmetrics.above_hull import StabilitySettings
from crysmetrics.io import Crystals
from crysmetrics.potentials import formation, registry
from crysmetrics.potentials.base import Potential, Prediction
from crysmetrics.reporting.hull_figures import hull_figures
from crysmetrics.reporting.structures import shown_structures

ELEMENTS = dict.fromkeys(range(1, 90), 0.0)


class Pulling(Potential):
    """A potential of -2 eV/atom and more with the volume, that pulls two atoms apart."""

    name, title, elements, sha256 = "pulling 1", "Pulling", frozenset(range(1, 90)), "3" * 64
    corrected = True

    def evaluate(self, crystals: Crystals) -> Prediction:
        lengths = np.linalg.norm(crystals.lattices[:, 0], axis=1)
        forces = np.zeros((len(crystals.atomic_numbers), 3))
        starts = np.concatenate([[0], np.cumsum(crystals.num_atoms)[:-1]])
        gaps = 0.7 - crystals.frac_coords[starts + 1, 2]
        forces[starts + 1, 2], forces[starts, 2] = gaps, -gaps
        return Prediction(lengths - 7.0 - gaps**2, forces, np.zeros((len(crystals), 3, 3)))


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> crysmetrics.Report:
    monkeypatch.setitem(registry.POTENTIALS, "pulling", f"{__name__}:Pulling")
    monkeypatch.setattr(formation, "_all_elements", lambda: {"3" * 64: ELEMENTS})
    monkeypatch.setattr(above_hull, "torch_device", lambda device: "cpu")
    two, three = [[0, 0, 0], [0.5] * 3], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]
    made = [
        *(one([3, 8], two, a, f"lio{a}") for a in (4.5, 5.0, 6.9)),
        *(one([3, 26, 8], three, a, f"lifeo{a}") for a in (4.6, 5.1)),
        one([11, 17], two, 4.5, "nacl"),
    ]
    settings = StabilitySettings(("pulling",))
    return crysmetrics.stability(Crystals.concatenate(made), stability=settings, cache="off")


def test_hulls_of_the_commonest_systems_come_first(report):
    figures = hull_figures(report)
    assert [figure.title for figure in figures] == ["Li–O", "Li–O–Fe", "Na–Cl"]
    binary, ternary = figures[:2]
    assert binary.svg.count('class="dot gen"') == 2
    assert binary.note == "1 more than 0.5 eV/atom above the hull."
    assert ">Li2O2<" in binary.svg
    assert "3 generated structures" in binary.svg
    assert ternary.svg.count('class="dot gen"') == 2
    assert all(f">{name}<" in ternary.svg for name in ("Li", "Fe", "O", "Fe2O3"))
    html = report.to_html()
    assert html.count("Hulls of the commonest chemical systems") == 1
    assert binary.svg in html


def test_stable_structures_stand_beside_what_relaxation_made_of_them(report):
    shown = [entry for entry in shown_structures(report) if entry["kind"] == "stable"]
    assert len(shown) == len({entry["formula"] or entry["title"] for entry in shown}) == 3
    rows = report.per_structure["gen"].set_index("id")
    above = [rows.e_above_hull[entry["title"]] for entry in shown]
    assert all(a <= b for a, b in pairwise(above))
    for entry in shown:
        near = entry["near"]
        assert near["heading"] == "Relaxed"
        assert near["cell"] != entry["cell"]
        (moved,) = re.findall(r"moved by ([\d.]+) Å", " ".join(near["facts"]))
        assert float(moved) == pytest.approx(rows.relaxation_rmsd[entry["title"]], abs=0.005)
        assert float(moved) > 0.01
    assert report.to_html().count('data-kind="stable"') == 3


def test_given_energies_have_no_relaxed_structures(tmp_path):
    crystals = one([3, 8], [[0, 0, 0], [0.5] * 3], 4.5, "lio")
    given = tmp_path / "e.csv"
    given.write_text("id,e_above_hull\nlio,0.01\n")
    report = crysmetrics.evaluate(
        crystals, crystals, energies=given, metrics=["metastable_rate"], cache="off"
    )
    (entry,) = [e for e in shown_structures(report) if e["kind"] == "stable"]
    assert entry["near"] is None
    assert len(hull_figures(report)) == 1
