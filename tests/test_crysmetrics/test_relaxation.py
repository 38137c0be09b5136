"""Relaxation with CHGNet, alone and through the command."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sets import one, rocksalt, zinc_blende

from crysgen.cli import main
from crysgen.compositions.formulas import parse_formula
from crysgen.output import RunFolder
from crysgen.proposers import retrieval
from crysgen.proposers.base import PREDICTED
from crysgen.proposers.retrieval import EXPLORED, LOOKED_AT, to_relax
from crysgen.ranking.energy import (
    RELAXED_SCALE,
    complexities,
    is_distortion,
    reweighed,
    simplest_first,
)
from crysgen.ranking.selection import select
from crysgen.requests import CompositionRequest
from crysgen.retrieval.library.library import Library
from crysgen.retrieval.propose import propose
from crysmetrics import relaxation
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.potentials import registry
from crysmetrics.potentials.base import AsePotential
from crysmetrics.relaxation import (
    CONVERGED,
    ENERGY,
    RMSD,
    START_ENERGY,
    STEPS,
    DeadlinePassed,
    RelaxationSettings,
    batches,
    displacement,
    identity,
    relax,
    relax_all,
)
from crysmetrics.relaxation.descent import End

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def chgnet() -> None:
    pytest.importorskip("chgnet", reason="the extra `relax` is not installed")
    pytest.importorskip("dftd3", reason="the extra `relax` is not installed")


@pytest.mark.usefixtures("chgnet")
def test_atoms_and_cell_go_downhill() -> None:
    good = rocksalt()
    frac = good.frac_coords.copy()
    frac[0] += 0.03
    pushed = one(good.atomic_numbers, frac, 1.06 * good.lattices[0], "pushed")
    [best] = relax(good, "cpu")
    [back] = relax(pushed, "cpu")
    assert back.ids == ("pushed",)
    assert not back.failures
    assert back.properties[ENERGY][0] == pytest.approx(best.properties[ENERGY][0], abs=0.01)
    assert back.volumes[0] == pytest.approx(best.volumes[0], rel=0.03)
    assert back.volumes[0] < pushed.volumes[0]


@pytest.mark.usefixtures("chgnet")
def test_edges_of_lithium_compounds_are_those_of_handbooks() -> None:
    frac = [[0, 0, 0], [0.25, 0.25, 0.25], [0.75, 0.75, 0.75]]
    for atoms, edge in (([16, 3, 3], 5.708), ([8, 3, 3], 4.619)):
        start = one(atoms, frac, 1.03 * edge * 0.5 * (1 - np.eye(3)), "antifluorite")
        [found] = relax(start, "cpu")
        assert (4 * found.volumes[0]) ** (1 / 3) == pytest.approx(edge, rel=0.012)


@pytest.mark.usefixtures("chgnet")
def test_dispersion_is_for_what_is_no_metal() -> None:
    salt, copper = rocksalt(), one([29], [[0, 0, 0]], 2.56 * np.sqrt(0.5) * (1 - np.eye(3)), "Cu")
    for crystal, contracts in ((salt, True), (copper, False)):
        [plain] = relax(crystal, "cpu", dispersion=False)
        [full] = relax(crystal, "cpu")
        assert not plain.failures + full.failures
        smaller = full.volumes[0] < 0.99 * plain.volumes[0]
        lower = full.properties[ENERGY][0] < plain.properties[ENERGY][0] - 0.02
        assert smaller == lower == contracts
    assert identity()["dispersion"] != identity(dispersion=False)["dispersion"]


@pytest.mark.usefixtures("chgnet")
def test_layers_come_together() -> None:
    # Molybdenite whose layers are 7 Å apart; 6.15 Å by experiment.
    a, c, h = 3.18, 14.0, 1.57 / 14
    lattice = np.array([[a, 0, 0], [-a / 2, a * 0.75**0.5, 0], [0, 0, c]])
    frac = [[1 / 3, 2 / 3, z] for z in (0.25, 0.75 + h, 0.75 - h)]
    frac += [[2 / 3, 1 / 3, z] for z in (0.75, 0.25 + h, 0.25 - h)]
    loose = one([42, 16, 16] * 2, frac, lattice, "MoS2")
    [plain] = relax(loose, "cpu", dispersion=False)
    [found] = relax(loose, "cpu")
    assert found.lattices[0][2, 2] / 2 == pytest.approx(6.15, rel=0.03)
    assert plain.lattices[0][2, 2] / 2 > 1.03 * 6.15


@pytest.mark.usefixtures("chgnet")
def test_low_spin_is_found_from_the_volume_of_high_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    # Layered LiCoO2, 12 % too large, from where CHGNet goes to its minimum of high spin.
    a, c = 2.95, 14.6
    lattice = np.array([[a, 0, c], [-a / 2, a * 0.75**0.5, c], [-a / 2, -a * 0.75**0.5, c]])
    lattice /= [3**0.5, 3**0.5, 3]
    z = 0.2394
    frac = [[0, 0, 0], [0.5, 0.5, 0.5], [z, z, z], [1 - z, 1 - z, 1 - z]]
    large = one([3, 27, 8, 8], frac, lattice, "LiCoO2")
    [best] = relax(large, "cpu", dispersion=False)
    monkeypatch.setattr(relaxation, "TWO_SPINS", ())
    [stuck] = relax(large, "cpu", dispersion=False)
    assert best.volumes[0] < 0.95 * stuck.volumes[0]
    assert best.properties[ENERGY][0] < stuck.properties[ENERGY][0] - 0.005


@pytest.mark.usefixtures("chgnet")
@pytest.mark.parametrize(
    ("crystal", "reason"),
    [
        (one([95], [[0, 0, 0]], 3.5, "americium"), "CHGNet knows no Am"),
        (one([11, 17], [[0, 0, 0], [0.5] * 3], 1.0, "dense"), "it has 0.5 Å³ per atom"),
        (one([79, 79], [[0, 0, 0], [0.01] * 3], 2.0, "pressed"), "two of its atoms stay 0.\\d"),
        (one([19, 17], [[0, 0, 0], [0, 0, 0]], 4.0, "same"), "Cannot construct dispersion model"),
    ],
)
def test_what_cannot_be_relaxed_comes_back_as_it_was_with_a_reason(
    crystal: Crystals, reason: str
) -> None:
    [found] = relax(crystal, "cpu")
    [failure] = found.failures
    assert failure.file == crystal.ids[0]
    assert re.match(f"could not be relaxed: {reason}", failure.reason)
    assert np.isnan(found.properties[ENERGY][0])
    assert not found.properties[CONVERGED][0]
    np.testing.assert_array_equal(found.frac_coords, crystal.frac_coords)
    np.testing.assert_array_equal(found.lattices, crystal.lattices)


@pytest.mark.usefixtures("chgnet")
def test_atoms_without_neighbours_are_at_rest() -> None:
    far = one([2, 2], [[0, 0, 0], [0.5, 0.5, 0.5]], 60.0, "far")
    [found] = relax(far, "cpu", dispersion=False)
    assert not found.failures
    assert found.properties[CONVERGED][0]
    np.testing.assert_allclose(found.lattices, far.lattices)


@pytest.mark.usefixtures("chgnet")
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (RelaxationSettings(max_steps=1), "1 steps were not enough"),
        (RelaxationSettings(time_limit=0), "0 s were not enough"),
    ],
)
def test_what_runs_out_of_steps_or_time_is_not_called_relaxed(
    settings: RelaxationSettings, reason: str
) -> None:
    salt = rocksalt()
    pushed = one(
        salt.atomic_numbers, salt.frac_coords + 0.03 * np.eye(2)[:, [0, 0, 0]], salt.lattices[0]
    )
    [found] = relax(pushed, "cpu", False, settings=settings)
    assert found.failures[0].reason == f"was not relaxed to the end: {reason}"
    assert np.isnan(found.properties[ENERGY][0])
    assert not found.properties[CONVERGED][0]
    np.testing.assert_array_equal(found.lattices, pushed.lattices)
    # Who wants to go on with what there is gets it, and the failure too.
    [kept] = relax(pushed, "cpu", False, settings=replace(settings, keep_unfinished=True))
    assert kept.failures == found.failures
    assert np.isfinite(kept.properties[ENERGY][0])
    assert not kept.properties[CONVERGED][0]
    [best] = relax(pushed, "cpu", False)
    assert best.properties[CONVERGED][0]
    assert best.properties[ENERGY][0] < kept.properties[ENERGY][0]


def test_of_two_ends_the_lowest_that_is_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    hematite = one([26, 8], [[0, 0, 0], [0.5] * 3], 4.3)
    large, small = (float(v) for v in (hematite.volumes[0], 0.9 * hematite.volumes[0]))
    ends = {round(large): (-3.0, None), round(small): (-3.1, "100 steps were not enough")}

    def run(crystals: list[Crystals], *_: object) -> list[End]:
        found = [(crystal, *ends[round(float(crystal.volumes[0]))]) for crystal in crystals]
        return [End(crystal, energy, -2.0, 5, why) for crystal, energy, why in found]

    monkeypatch.setattr(relaxation, "descend", run)
    [found] = relax(hematite, "cpu", False)
    assert found.properties[ENERGY][0] == -3.0
    ends[round(small)] = (-3.1, None)
    [found] = relax(hematite, "cpu", False)
    assert found.properties[ENERGY][0] == -3.1
    assert found.volumes[0] == pytest.approx(small)


class Rough(AsePotential):
    """Pairs by Lennard-Jones, but no sodium: it swells; and potassium hangs."""

    name, title, elements, sha256 = "rough 1", "Rough", frozenset({11, 18, 19}), "0" * 64

    def calculator(self, crystal: Crystals) -> object:
        from ase.calculators.lj import LennardJones

        if 19 in crystal.atomic_numbers:
            while True:
                pass
        epsilon = -0.5 if 11 in crystal.atomic_numbers else 0.0103
        return LennardJones(sigma=3.4, epsilon=epsilon, rc=10.0, smooth=True)


def test_what_breaks_or_hangs_does_no_harm_to_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.POTENTIALS, "rough", f"{__name__}:Rough")
    cell = 5.4 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    good, swells, hangs = (one([z], [[0, 0, 0]], cell, str(z)) for z in (18, 11, 19))
    settings = RelaxationSettings(max_force=0.001, time_limit=0.5)
    together = Crystals.concatenate([hangs, good, swells])
    found = relax_all(together, "cpu", False, potential="rough", settings=settings)
    alone = relax_all(good, "cpu", False, potential="rough", settings=settings)
    assert found.ids == together.ids
    assert found.properties[CONVERGED].tolist() == [False, True, False]
    np.testing.assert_allclose(found.lattices[1], alone.lattices[0])
    reasons = {failure.file: failure.reason for failure in found.failures}
    assert reasons["19"] == "could not be relaxed: one step took more than 0.5 s"
    assert re.match(r"could not be relaxed: its volume became \d", reasons["11"])


def test_at_a_deadline_relaxations_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.POTENTIALS, "rough", f"{__name__}:Rough")
    cell = 5.0 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    good = one([18], [[0, 0, 0]], cell, "argon")
    settings = RelaxationSettings(max_force=0.001, deadline=time.time() + 60)
    [found] = relax(good, dispersion=False, potential="rough", settings=settings)
    assert found.properties[CONVERGED][0]
    late = RelaxationSettings(max_force=0.001, deadline=time.time())
    with pytest.raises(DeadlinePassed):
        list(relax(good, dispersion=False, potential="rough", settings=late))


def test_batches_hold_all_crystals_small_ones_first() -> None:
    sizes = np.array([5, 90, 3, 3, 7, 20, 64])
    found = [rows.tolist() for rows in batches(sizes, 64)]
    assert found == [[2, 3, 0, 4, 5], [6], [1]]
    assert list(batches(np.zeros(0, dtype=int), 64)) == []


def test_swelling_and_shifting_are_no_displacement() -> None:
    start = one([11, 17], [[0.98, 0, 0], [0.5] * 3], 4.0)
    end = one([11, 17], [[0.02, 0.04, 0], [0.54, 0.54, 0.5]], 5.0)
    assert displacement(start, end) == pytest.approx(0, abs=1e-12)
    apart = one([11, 17], [[0.98, 0, 0], [0.6, 0.5, 0.5]], 5.0)
    assert displacement(start, apart) == pytest.approx(0.25)


@pytest.mark.usefixtures("chgnet")
def test_a_fixed_cell_stays() -> None:
    salt = rocksalt()
    pushed = one(salt.atomic_numbers, salt.frac_coords + 0.02 * np.eye(2, 3), salt.lattices[0])
    settings = RelaxationSettings(fixed_cell=True)
    [found] = relax(pushed, "cpu", False, settings=settings)
    np.testing.assert_allclose(found.lattices, pushed.lattices)
    assert found.properties[CONVERGED][0]
    assert found.properties[ENERGY][0] < found.properties[START_ENERGY][0] - 0.0005
    assert found.properties[RMSD][0] == pytest.approx(displacement(pushed, salt), abs=0.02)
    assert found.properties[STEPS][0] > 0


def test_without_the_package_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crysmetrics.packages.is_installed", lambda module: module != "chgnet")
    with pytest.raises(UserError, match=r"Relaxation needs CHGNet: pip install chgnet"):
        identity()


@pytest.mark.usefixtures("chgnet")
def test_without_dispersion_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    with pytest.raises(UserError, match=r"Dispersion needs dftd3.*--no-dispersion"):
        list(relax(rocksalt(), "cpu"))
    assert identity(dispersion=False)["dispersion"] == "none"


def test_more_are_relaxed_than_asked_for() -> None:
    proposals = propose(Library.load(extra=[]), {22: 2, 8: 4}, 60)
    assert len(proposals) == 60
    for count, first in ((1, 10), (5, 18), (10, LOOKED_AT), (50, 50), (60, 60)):
        chosen = to_relax(proposals, count)
        assert chosen[:first] == proposals[:first]
        assert len(chosen) == min(first + EXPLORED, 60)
    likes = [p.features.plausibility for p in to_relax(proposals, 10)[LOOKED_AT:]]
    assert min(likes) >= sorted(p.features.plausibility for p in proposals[LOOKED_AT:])[-EXPLORED]


@pytest.mark.usefixtures("chgnet")
def test_processes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(relaxation.ATOMS_TOGETHER, "cpu", 6)
    cells = [rocksalt(a, f"salt {a}") for a in (5.5, 5.55, 5.6, 5.65, 5.7, 5.75, 5.8, 5.85)]
    together = Crystals.concatenate(cells)
    alone = list(relax(together, "cpu"))
    spread = sorted(relax(together, "cpu", workers=2), key=lambda batch: batch.ids)
    assert [one.ids for one in spread] == [one.ids for one in alone]
    for first, second in zip(alone, spread, strict=True):
        np.testing.assert_array_equal(first.lattices, second.lattices)
        np.testing.assert_array_equal(first.properties[ENERGY], second.properties[ENERGY])


def test_lower_energies_are_likelier_within_a_composition() -> None:
    energies = np.array([-1.0, -1.0 - RELAXED_SCALE, np.nan])
    weights = reweighed(np.array([0.3, 0.3, 0.2]), energies)
    np.testing.assert_allclose(weights[1:] / weights[1], [1, 0])
    np.testing.assert_allclose(weights[0] / weights[1], np.exp(-1))
    assert weights.sum() == pytest.approx(0.8)  # what nothing was proposed for stays
    unsure = reweighed(np.array([0.3, 0.3, 0.2]), energies, np.array([0.1, 0.0, np.nan]))
    assert weights[0] < unsure[0] < unsure[1]


def test_of_equal_energies_the_simplest_comes_first() -> None:
    energies = np.array([-1.0, -0.95, -1.0014, -0.9514, np.nan, np.nan])
    complexity = np.array([9.8, 9.8, 4.2, 9.2, 1.0, 2.0])
    np.testing.assert_array_equal(simplest_first(energies, complexity), [2, 0, 3, 1, 4, 5])
    # The order is kept where nothing is simpler, and where differences are real.
    for kept in ([4.2, 4.2, 9.8, 9.8], [8.0, 8.0, 8.0, 8.0]):
        np.testing.assert_array_equal(simplest_first(energies[:4], np.array(kept)), range(4))
    np.testing.assert_array_equal(simplest_first(energies[[0, 3]], np.array([9.8, 4.2])), [0, 1])
    assert len(simplest_first(np.zeros(0), np.zeros(0))) == 0


def test_small_cells_are_simple_and_symmetric_ones_more_so() -> None:
    salt = rocksalt()
    skewed = one([11, 17], [[0, 0, 0], [0.4, 0.5, 0.6]], np.diag([4.0, 5.0, 6.0]), "skewed")
    longer = one([11, 17, 17], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]], 4.0, "longer")
    frac = np.concatenate(
        [salt.frac_coords / [1, 1, 2], salt.frac_coords / [1, 1, 2] + [0, 0, 0.5]]
    )
    lattice = salt.lattices[0] * np.array([[1], [1], [2]])
    double = one(np.tile(salt.atomic_numbers, 2), frac, lattice, "double")
    found = complexities(Crystals.concatenate([salt, skewed, longer, double]), 0.1)
    assert 1 < found[0] < found[1] < 2 < found[2] < 3
    assert found[3] == found[0]


def test_simple_structures_come_before_their_distortions_but_not_in_exact_cells() -> None:
    salt = rocksalt()
    half = salt.frac_coords / [1, 1, 2]
    above = half + np.array([0, 0, 0.5])
    bent = np.concatenate([half, above]) + 0.03 * np.eye(4)[:, :3]
    lattice = salt.lattices[0] * np.array([[1], [1], [2]])
    crystals = Crystals.concatenate(
        [one(np.tile(salt.atomic_numbers, 2), bent, lattice, "bent"), salt]
    )
    properties = {
        "request": np.zeros(2, dtype=np.int64),
        "score": np.array([0.9, 0.1]),
        "probability": np.array([0.8, 0.1]),
        "status": np.full(2, PREDICTED, dtype="<U20"),
        ENERGY: np.array([-3.0, -2.9995]),
    }
    candidates = replace(crystals, properties=properties)
    formula = parse_formula("NaCl")
    for ref_id, known, first in (("", None, 1), ("some-id", None, 0), ("", 0, 1)):
        properties["status"][:] = PREDICTED
        if known is not None:
            properties["status"][known] = "known (mp-1)"
        requests = [CompositionRequest(formula, ((1, 2),), ref_id)]
        chosen = select(candidates, np.full(2, 2.5), np.zeros(2), requests, True, 0.1)
        order, ranks, scores = chosen.rows, chosen.ranks, chosen.scores
        assert order.tolist() == [first, 1 - first]
        assert ranks.tolist() == [1, 2]
        assert scores[0] > scores[1]


def test_simple_structures_displace_known_ones_of_other_kinds_only_where_energies_do() -> None:
    salt, blende = rocksalt(), zinc_blende()
    doubled = np.concatenate([blende.frac_coords / [1, 1, 2], blende.frac_coords / [1, 1, 2]])
    doubled[len(blende.frac_coords) :, 2] += 0.5
    doubled[0, 0] += 0.02
    lattice = blende.lattices[0] * np.array([[1], [1], [2]])
    other = one(np.tile(blende.atomic_numbers, 2), doubled, lattice, "other")
    crystals = Crystals.concatenate([other, salt])
    assert not is_distortion(other, salt)
    assert is_distortion(other, blende)
    requests = [CompositionRequest(parse_formula("NaCl"), ((1, 2),))]
    for status, energy, first in (
        ("known (mp-1)", -2.9995, 0),
        (PREDICTED, -2.9995, 1),
        ("known (mp-1)", -3.5, 1),
    ):
        properties = {
            "request": np.zeros(2, dtype=np.int64),
            "score": np.array([0.9, 0.1]),
            "probability": np.array([0.8, 0.1]),
            "status": np.array([status, PREDICTED], dtype="<U20"),
            ENERGY: np.array([-3.0, energy]),
        }
        candidates = replace(crystals, properties=properties)
        chosen = select(candidates, np.full(2, 2.5), np.zeros(2), requests, True, 0.1)
        assert chosen.rows.tolist() == [first, 1 - first]


@pytest.mark.usefixtures("chgnet")
def test_the_command_relaxes_and_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "salt"
    base = ["sample", "--composition", "NaCl", "-n", "3", "--method", "retrieval", "--relax"]
    # Known structures would keep their cells.
    base += ["--library", "benchmark", "--exclude", "mp-22862"]
    call = [*base, "-o", str(folder), "--no-energies", "--workers", "1", "--quiet"]
    monkeypatch.setattr(retrieval, "LOOKED_AT", 3)
    monkeypatch.setitem(relaxation.ATOMS_TOGETHER, "cpu", 6)
    keep = RunFolder.add_relaxed
    seen: list[str] = []
    calls: list[int] = []

    def interrupted(self: RunFolder, crystals: Crystals) -> None:
        keep(self, crystals)
        seen.extend(crystals.ids)
        calls.append(len(crystals))
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "add_relaxed", interrupted)
    assert CliRunner().invoke(main, call).exit_code != 0
    assert not (folder / "samples.csv").exists()
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    assert len(seen) == len(set(seen))
    table = pd.read_csv(folder / "samples.csv")
    assert table.space_group[0] == 225
    assert table.volume_per_atom[0] == pytest.approx(22.5, rel=0.01)  # measured: 22.43
    assert len(seen) > len(table)  # more than were asked for
    plain = CliRunner().invoke(main, [*call[:-1], "--overwrite", "--no-dispersion"])
    assert plain.exit_code == 0
    assert "CHGNet" not in plain.stdout
    table = pd.read_csv(folder / "samples.csv")
    assert table.volume_per_atom[0] == pytest.approx(22.9, rel=0.01)  # CHGNet's salt, as PBE's
