"""Shares of stable structures, on crystals whose energies are known without any potential."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sets import one, rocksalt

import crysmetrics
from crysmetrics import above_hull
from crysmetrics.above_hull import StabilitySettings, stability
from crysmetrics.errors import UserError
from crysmetrics.features import e_above_hull
from crysmetrics.hull.table import HullTable
from crysmetrics.io import Crystals, write
from crysmetrics.metrics.base import Value
from crysmetrics.metrics.stability import reliability
from crysmetrics.potentials import formation, registry
from crysmetrics.potentials.base import Potential, Prediction
from crysmetrics.protocols import plan
from crysmetrics.reporting.figures import energies_above_hull

ELEMENTS = {11: -1.0, 17: -1.5}


class Told(Potential):
    """A potential that reads formation energies from the length of the cell: 5.0 is -1 eV/atom."""

    name, title, elements, sha256 = "told 1", "Told", frozenset({11, 17, 8}), "1" * 64
    corrected = True
    more = 0.0

    def evaluate(self, crystals: Crystals) -> Prediction:
        lengths = np.linalg.norm(crystals.lattices[:, 0], axis=1)
        base = np.array([np.mean([ELEMENTS.get(z, 0) for z in c.atomic_numbers]) for c in crystals])
        atoms = len(crystals.atomic_numbers)
        energies = lengths - 6.0 + base + self.more
        return Prediction(energies, np.zeros((atoms, 3)), np.zeros((len(crystals), 3, 3)))


class Doubter(Told):
    """The same, but 0.2 eV/atom higher."""

    name, sha256, more = "doubter 1", "2" * 64, 0.2


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table that holds NaCl at -1 eV/atom, and two potentials."""
    for name in ("Told", "Doubter"):
        monkeypatch.setitem(registry.POTENTIALS, name.lower(), f"{__name__}:{name}")
    monkeypatch.setattr(
        formation, "_all_elements", lambda: {"1" * 64: ELEMENTS, "2" * 64: ELEMENTS}
    )
    monkeypatch.setattr(above_hull, "torch_device", lambda device: "cpu")
    path = tmp_path / "known.npz"
    table = HullTable(
        ("salt", "other"),
        ({11: 1, 17: 1}, {11: 2, 17: 2}),
        np.array([-1.0, -0.4]),
        np.array([np.nan, np.nan]),
        "made up",
    )
    table.with_errors().save(path)
    return path


def cells() -> Crystals:
    """Salts on the hull, below it, 0.05 and 0.5 eV/atom above it, and one with another element."""
    made = [one([11, 17], [[0, 0, 0], [0.5] * 3], a, f"a{a}") for a in (5.0, 4.9, 5.05, 5.5)]
    return Crystals.concatenate([*made, one([8, 17], [[0, 0, 0], [0.5] * 3], 5.0, "odd")])


def test_shares_count_what_failed_as_not_stable(known: Path) -> None:
    crystals = cells().with_failures([("lost.cif", "is empty")])
    settings = StabilitySettings(("told",), hull=known)
    report = crysmetrics.stability(crystals, stability=settings, cache="off", steps_per_sample=30)
    assert report["stable_rate"] == pytest.approx(2 / 6)
    assert report["metastable_rate"] == pytest.approx(3 / 6)
    assert report["stability_cost"] == pytest.approx(30 * 6 / 3)
    assert "0.06 as CrysLDM's Table 1" in str(report.metrics["stability_cost"].note)
    assert report["rmsd_relaxed"] == 0  # nothing pulls at the atoms
    table = report.per_structure["gen"]
    np.testing.assert_allclose(table.e_above_hull[:4], [0, -0.1, 0.05, 0.5], atol=1e-6)
    assert np.isnan(table.e_above_hull[4])
    assert table.hull_error[0] == 0
    assert table.decomposition[0] == "1.000 NaCl"
    assert table.decomposition[4] == "0.500 Cl + 0.500 O"
    assert any("energy of the element O is not known" in f["reason"] for f in report.failures)
    assert "2 of 6 have no energy" in str(report.metrics["stable_rate"].note)
    series = report.outcomes["stability"].series["e_above_hull"]
    assert series["structures"].sum() == 4
    figure = energies_above_hull(report)
    assert figure is not None
    assert "75.0% below 0.1 eV/atom" in figure.svg


def test_steps_of_samples_csv_give_the_cost(known: Path, tmp_path: Path) -> None:
    crystals = cells()[:4]
    write(crystals, tmp_path / "gen")
    settings = StabilitySettings(("told",), hull=known)
    table = tmp_path / "gen" / "samples.csv"

    def cost(**options: float) -> Value:
        path = tmp_path / "gen"
        report = crysmetrics.stability(path, stability=settings, cache="off", **options)
        return report.metrics["stability_cost"]

    assert "neither" in str(cost().reason)
    table.write_text(
        "file,steps\n"
        + "".join(f"{n}.cif,{k}\n" for n, k in zip("abcd", (10, 30, 20, 20), strict=True))
    )
    found = cost()
    assert found.value == pytest.approx(20 * 4 / 3)
    assert "20 steps for each structure by its samples.csv" in str(found.note)
    assert cost(steps_per_sample=50.0).value == pytest.approx(50 * 4 / 3)
    table.write_text("file,steps\na.cif,many\n")
    with pytest.raises(UserError, match="steps that are no numbers"):
        cost()
    table.write_text("file,steps\na.cif,0\n")  # retrieval takes none
    assert "neither" in str(cost().reason)


def test_displacements_by_relaxation_are_averaged_over_those_relaxed(
    known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pulls(self: Told, crystals: Crystals) -> Prediction:
        found = Told.evaluate(self, crystals)
        forces = np.zeros_like(found.forces)
        first = np.concatenate([[0], np.cumsum(crystals.num_atoms)[:-1]])
        gap = 0.6 - crystals.frac_coords[first + 1, 2]
        forces[first + 1, 2], forces[first, 2] = gap, -gap
        return found._replace(forces=forces)

    monkeypatch.setattr(Doubter, "evaluate", pulls)
    settings = StabilitySettings(("doubter",), hull=known)
    report = crysmetrics.stability(cells()[:2], stability=settings, cache="off")
    moved = report.per_structure["gen"].relaxation_rmsd
    assert (moved > 0.05).all()
    assert report["rmsd_relaxed"] == pytest.approx(moved.mean())
    still = crysmetrics.stability(
        cells()[:2], stability=StabilitySettings(("doubter",), hull=known, relax=False), cache="off"
    )
    assert "was relaxed here" in str(still.metrics["rmsd_relaxed"].reason)


def test_relaxations_are_for_those_who_ask() -> None:
    assert "stability" not in plan().measures
    assert plan(metrics=["stable_rate"]).measures == ("stability",)


def test_two_potentials_must_agree(known: Path) -> None:
    both = ("told", "doubter")
    first = stability(cells(), StabilitySettings(both, hull=known))
    agreed = stability(cells(), StabilitySettings(both, agree=True, hull=known))
    np.testing.assert_allclose(agreed.e_above_hull[:4], first.e_above_hull[:4] + 0.2)
    assert set(agreed.formation) == set(both)


def test_relaxations_before_an_interruption_are_kept(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    evaluate = Told.evaluate

    def counts(self: Told, crystals: Crystals) -> Prediction:
        if len(seen) >= 32:
            raise KeyboardInterrupt
        seen.extend(crystals.lattices[:, 0, 0].tolist())
        return evaluate(self, crystals)

    crystals = Crystals.concatenate(
        [one([11, 17], [[0, 0, 0], [0.5] * 3], 4.9 + i / 100, f"c{i}") for i in range(70)]
    )
    settings = StabilitySettings(("told",), hull=known)
    options = {"stability": settings, "cache": str(tmp_path / "cache"), "workers": 1}
    monkeypatch.setattr(Told, "evaluate", counts)
    with pytest.raises(KeyboardInterrupt):
        crysmetrics.stability(crystals, **options)
    first, again = seen[:], []
    monkeypatch.setattr(
        Told,
        "evaluate",
        lambda self, crystals: (
            again.extend(crystals.lattices[:, 0, 0].tolist()) or evaluate(self, crystals)
        ),
    )
    report = crysmetrics.stability(crystals, **options)
    assert len(first) == 32
    assert not {round(a, 6) for a in first} & {round(a, 6) for a in again}
    assert len(again) == 38
    assert report["stable_rate"] == pytest.approx(11 / 70)


def test_what_is_unknown_is_refused(known: Path) -> None:
    with pytest.raises(UserError, match="named once"):
        StabilitySettings(("told", "told"))
    with pytest.raises(UserError, match="There is no file"):
        StabilitySettings(("told",), hull=known.parent / "none.npz").identity()
    with pytest.raises(UserError, match="Potentials are"):
        stability(cells(), StabilitySettings(("magic",), hull=known))
    with pytest.raises(UserError, match="positive"):
        crysmetrics.stability(cells(), steps_per_sample=0.0)


def test_salt_is_stable_and_squeezed_salt_is_not() -> None:
    pytest.importorskip("chgnet")
    pytest.importorskip("torch")
    squeezed = rocksalt(5.0, "squeezed")
    together = Crystals.concatenate([rocksalt(5.69, "salt"), squeezed])
    found = stability(together, StabilitySettings(relax=False))
    assert not found.failures
    assert abs(found.e_above_hull[0]) < 0.05
    assert found.e_above_hull[1] > 0.15
    relaxed = stability(squeezed)
    assert abs(relaxed.e_above_hull[0]) < 0.05
    assert found.formation["chgnet"][0] == pytest.approx(-2.1, abs=0.1)


def test_what_stability_wrote_is_read_with_its_errors_and_displacements(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crystals = cells()
    settings = StabilitySettings(("told",), hull=known)
    report = crysmetrics.stability(crystals, stability=settings, cache="off")
    table = report.per_structure["gen"]
    table.to_csv(tmp_path / "e.csv", index=False)
    monkeypatch.setattr(e_above_hull, "stability", None)  # nothing is computed again
    monkeypatch.setattr(above_hull, "stability", None)
    found = crysmetrics.evaluate(
        crystals,
        crystals,
        train=cells()[:1],
        energies=tmp_path / "e.csv",
        metrics=["stable_rate", "rmsd_relaxed", "sun", "struct_validity"],
        cache="off",
        workers=1,
    )
    assert found["stable_rate"] == report["stable_rate"]
    assert found["rmsd_relaxed"] == report["rmsd_relaxed"] == 0
    given = found.per_structure["gen"]
    for name in ("e_above_hull", "hull_error", "competing_phases"):
        np.testing.assert_allclose(given[name], table[name], atol=1e-9)
    assert "4 have a composition of the known phases" in str(found.metrics["sun"].note)
    assert "Relaxed" not in found.to_html("x")


def test_the_error_of_the_hull_is_said_by_the_number_of_competing_phases() -> None:
    columns = {
        "e_above_hull": np.array([0.0, 0.1, 0.2, np.nan, 0.3, 0.4, 0.5]),
        "hull_error": np.array([0.0, 0.32, 0.16, 0.16, 0.16, 0.16, np.nan]),
        "competing_phases": np.array([4, 1, 3, 3, 5, 3, 2]),
    }
    assert reliability(columns, 8, given=False) == (
        "2 of 8 have no energy and count as not stable; 1 have a composition of the known phases; "
        "for others the hull is too high by a mean of 0.32 (1 with 1 competing phases), "
        "0.16 (3 with 3 to 5 competing phases), in eV/atom"
    )
