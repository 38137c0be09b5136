"""Relaxation with CHGNet, alone and through the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sets import one, rocksalt

from crysgen import relaxation
from crysgen.cli import main
from crysgen.generation import RELAXED_SCALE, _boltzmann
from crysgen.output import RunFolder
from crysgen.relaxation import ENERGY, identity, relax
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def chgnet() -> None:
    pytest.importorskip("chgnet", reason="the extra `relax` is not installed")


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
def test_low_spin_is_found_from_the_volume_of_high_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    # Layered LiCoO2, 12 % too large, from where CHGNet goes to its minimum of high spin.
    a, c = 2.95, 14.6
    lattice = np.array([[a, 0, c], [-a / 2, a * 0.75**0.5, c], [-a / 2, -a * 0.75**0.5, c]])
    lattice /= [3**0.5, 3**0.5, 3]
    z = 0.2394
    frac = [[0, 0, 0], [0.5, 0.5, 0.5], [z, z, z], [1 - z, 1 - z, 1 - z]]
    large = one([3, 27, 8, 8], frac, lattice, "LiCoO2")
    [best] = relax(large, "cpu")
    monkeypatch.setattr(relaxation, "TWO_SPINS", ())
    [stuck] = relax(large, "cpu")
    assert best.volumes[0] < 0.95 * stuck.volumes[0]
    assert best.properties[ENERGY][0] < stuck.properties[ENERGY][0] - 0.005


@pytest.mark.usefixtures("chgnet")
def test_what_cannot_be_relaxed_comes_back_with_a_reason() -> None:
    far = one([2, 2], [[0, 0, 0], [0.5, 0.5, 0.5]], 60.0, "far")
    near = one([11, 17], [[0, 0, 0], [0.001, 0, 0]], 4.0, "near")
    for crystal in (far, near):
        [found] = relax(crystal, "cpu")
        if found.failures:
            assert found.failures[0].file == crystal.ids[0]
            assert "could not be relaxed" in found.failures[0].reason
            assert np.isnan(found.properties[ENERGY][0])
            np.testing.assert_array_equal(found.frac_coords, crystal.frac_coords)
        else:
            assert np.isfinite(found.properties[ENERGY][0])
            assert np.isfinite(found.frac_coords).all()


def test_a_broken_relaxation_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def swell(crystal: Crystals, calculator: object) -> None:
        raise ValueError("its volume became 5 times as large\nand more")

    monkeypatch.setattr(relaxation, "_relaxed", swell)
    monkeypatch.setattr(relaxation, "_calculator", lambda device: None)
    [found] = relax(rocksalt(), "cpu")
    assert found.failures[0].reason == "could not be relaxed: its volume became 5 times as large"
    assert np.isnan(found.properties[ENERGY][0])


def test_without_the_package_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"crysmetrics\[relax\]"):
        identity()


def test_lower_energies_are_likelier_within_a_composition() -> None:
    energies = np.array([-1.0, -1.0 - RELAXED_SCALE, np.nan, -5.0])
    factors = _boltzmann(energies, np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(factors, [np.exp(-1), 1, 0, 1])


@pytest.mark.usefixtures("chgnet")
def test_the_command_relaxes_and_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "salt"
    base = ["sample", "--composition", "NaCl", "-n", "3", "--method", "retrieval", "--relax"]
    call = [*base, "-o", str(folder), "--no-energies", "--workers", "1", "--quiet"]
    keep = RunFolder.add_relaxed
    seen = []

    def interrupted(self: RunFolder, crystals: Crystals) -> None:
        keep(self, crystals)
        seen.append(crystals.ids[0])
        if len(seen) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "add_relaxed", interrupted)
    assert CliRunner().invoke(main, call).exit_code == 130
    assert not (folder / "samples.csv").exists()
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    assert len(seen) == len(set(seen))
    table = pd.read_csv(folder / "samples.csv")
    assert table.space_group[0] == 225
    assert table.volume_per_atom[0] == pytest.approx(22.9, rel=0.02)  # CHGNet's salt, as PBE's
    plain = CliRunner().invoke(main, [*call[:-1], "--overwrite"])
    assert plain.exit_code == 0
    assert "CHGNet" not in plain.stdout
