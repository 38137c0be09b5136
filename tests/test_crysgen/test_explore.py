"""Exploring a chemical system, with crystals and energies that are made up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sets import one

from crysgen import explore as exploring
from crysgen.cli import main
from crysgen.output import NothingMadeError
from crysmetrics.above_hull import Stability, StabilitySettings
from crysmetrics.hull.table import HullTable, amounts_of, formula
from crysmetrics.io import Crystals
from crysmetrics.relaxation import DeadlinePassed

ENERGIES = {"Li2O": -2.0, "LiO": -1.5, "LiO2": -0.9}
"""Formation energies in eV/atom of what is found; the others have 0.1."""
HERE = ("--device", "cpu", "--workers", "1")


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace sampling and potentials; returns what was sampled."""
    asked: list[str] = []

    def generate(text: str, count: int, **_: object) -> SimpleNamespace:
        asked.append(text)
        if text == "Li3O":
            raise NothingMadeError("nothing has such a formula")
        atoms = [3] * 2 + [8] if text == "Li2O" else [3, 8] if text == "LiO" else [3, 8, 8]
        frac = np.linspace(0, 0.8, len(atoms))[:, None] * np.ones(3)
        return SimpleNamespace(crystals=one(atoms, frac.tolist(), 4.0, text))

    def stability(crystals: Crystals, *_: object, **__: object) -> Stability:
        names = [formula(amounts_of(c.atomic_numbers)) for c in crystals]
        energies = np.array([ENERGIES.get(name, ENERGIES.get("LiO", 0.1)) for name in names])
        zeros = np.zeros(len(crystals))
        counts = np.zeros(len(crystals), dtype=np.int64)
        return Stability(crystals, {"chgnet": energies}, zeros, energies, counts, zeros, (), {})

    table = HullTable(("peroxide",), ({3: 1, 8: 1},), np.array([-1.6]), np.array([0.0]), "made up")
    monkeypatch.setattr(exploring, "generate", generate)
    monkeypatch.setattr(exploring, "stability", stability)
    monkeypatch.setattr(exploring, "load_hull", lambda _: table)
    monkeypatch.setattr(StabilitySettings, "identity", lambda self: {"potentials": ["chgnet"]})
    return asked


def test_what_lies_below_the_known_hull_is_first_and_drawn(
    made_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    call = ["explore", "Li-O", "-o", str(folder), "--max-atoms", "4", "-n", "1", *HERE]
    relax = exploring._relax
    relaxed: list[int] = []

    def interrupted(number: int, *arguments: object) -> object:
        relaxed.append(number)
        if len(relaxed) == 3:
            raise KeyboardInterrupt
        return relax(number, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(exploring, "_relax", interrupted)
    assert CliRunner().invoke(main, call).exit_code != 0
    assert len(list((folder / "pieces").glob("*.npz"))) == 2
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    again = relaxed.pop(2)  # the interrupted one, and no other, was relaxed again
    assert len(relaxed) == len(set(relaxed)) == len(set(made_up))
    assert again in relaxed
    assert set(made_up) >= {"Li2O", "LiO2", "Li3O"}
    table = pd.read_csv(folder / exploring.TABLE)
    assert table.e_above_hull[0] == pytest.approx(0)
    by_formula = table.set_index("formula")
    assert by_formula.e_above_hull["Li2O"] == pytest.approx(0)
    assert by_formula.e_above_hull["Li2O2"] == pytest.approx(0.1)  # the known one lies below
    assert by_formula.known_composition["Li2O2"]
    assert not by_formula.known_composition["Li2O"]
    record = json.loads((folder / exploring.RECORD).read_text())
    hull = {phase["formula"]: phase["phase"] for phase in record["result"]["on_hull"]}
    assert hull["Li2O2"] == "peroxide"
    assert hull["Li2O"].startswith("Li2O_")
    assert (folder / "hull.png").stat().st_size > 1000
    assert "plotly" in (folder / "hull.html").read_text()[:200_000].lower()
    assert any((folder / "structures").iterdir())
    other = CliRunner().invoke(main, [*call, "--seed", "3"])
    assert other.exit_code == 2
    assert "holds another exploration" in other.output


def test_what_decomposes_into_phases_that_the_table_lacks_is_not_on_the_hull(
    made_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # LiO2 is known 0.3 eV/atom above the hull, which so runs at -1.2 there; -0.9 is found.
    table = HullTable(("super",), ({3: 1, 8: 2},), np.array([-0.9]), np.array([0.3]), "made up")
    monkeypatch.setattr(exploring, "load_hull", lambda _: table)
    monkeypatch.setitem(ENERGIES, "Li2O", 0.2)
    monkeypatch.setitem(ENERGIES, "LiO", 0.1)
    folder = tmp_path / "out"
    call = ["explore", "Li-O", "-o", str(folder), "--max-atoms", "4", "-n", "1", *HERE]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    candidates = pd.read_csv(folder / exploring.TABLE)
    np.testing.assert_allclose(candidates.set_index("formula").e_above_hull["LiO2"], 0.3)
    record = json.loads((folder / exploring.RECORD).read_text())
    assert not record["result"]["on_hull"]
    page = (folder / "hull.html").read_text()
    assert "known energy of the hull, without a phase" in page
    assert "Li2O2" not in page[page.rindex("Plotly.newPlot") :]
    assert "LiO2" not in page[page.rindex("Plotly.newPlot") :]  # more than 0.2 above the hull


def test_what_is_not_finished_in_time_is_left_to_the_next_call(
    made_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    compute = exploring.stability
    ended: list[str] = []

    def slow(crystals: Crystals, settings: StabilitySettings, **options: object) -> Stability:
        clock[0] += 25
        if settings.relaxation.deadline is not None and clock[0] >= settings.relaxation.deadline:
            raise DeadlinePassed
        ended.extend(crystals.ids)
        return compute(crystals, settings, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(exploring, "time", SimpleNamespace(time=lambda: clock[0]))
    monkeypatch.setattr(exploring, "stability", slow)
    folder = tmp_path / "out"
    call = ["explore", "Li-O", "-o", str(folder), "--max-atoms", "4", "-n", "1", *HERE]
    done = CliRunner().invoke(main, [*call, "--minutes", "1"])
    assert done.exit_code == 0, done.output
    assert clock[0] == 1075.0
    record = json.loads((folder / exploring.RECORD).read_text())
    assert record["result"]["compositions"] == len(ended) == 2
    assert record["result"]["of"] > 2
    assert (folder / "hull.html").exists()
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    record = json.loads((folder / exploring.RECORD).read_text())
    assert record["result"]["compositions"] == record["result"]["of"]
    assert len(ended) == len(set(ended)) == record["result"]["candidates"]


def test_what_ails_every_composition_is_said(tmp_path: Path) -> None:
    call = ["explore", "Na-Cl", "-o", str(tmp_path / "out"), *HERE, "--method", "diffusion"]
    refused = CliRunner().invoke(main, [*call, "--model", "nowhere"])
    assert refused.exit_code == 2
    assert "nowhere" in refused.output


def test_what_makes_no_sense_is_refused(made_up: list[str], tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    for arguments, reason in (
        (["Li-O", "-o", str(tmp_path)], "holds other things"),
        (["Li", "-o", str(tmp_path / "a")], "two elements at least"),
        (["Li-O", "-o", str(tmp_path / "a"), "--method", "magic"], "Methods are"),
        (["LiO", "-o", str(tmp_path / "a")], "written like Li-Fe-O"),
    ):
        refused = CliRunner().invoke(main, ["explore", *arguments])
        assert refused.exit_code == 2, refused.output
        assert reason in refused.output
    assert not made_up
