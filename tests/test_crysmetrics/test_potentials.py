"""Potentials: energies, forces and stresses of batches, and what they say of themselves."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sets import one, rocksalt

from crysmetrics.above_hull import StabilitySettings, stability
from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.potentials import registry
from crysmetrics.potentials.base import AsePotential, ase_prediction, joined
from crysmetrics.potentials.chgnet import _model as chgnet_model
from crysmetrics.potentials.registry import POTENTIALS, load_potential
from crysmetrics.potentials.sevennet import SevenNet0, SevenNetL3i5
from crysmetrics.potentials.sevennet import _checkpoint as sevennet_checkpoint
from crysmetrics.potentials.sevennet import _weights as sevennet_weights
from crysmetrics.relaxation import CONVERGED, ENERGY, RelaxationSettings, relax

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def chgnet() -> None:
    pytest.importorskip("chgnet", reason="the extra `relax` is not installed")
    pytest.importorskip("dftd3", reason="the extra `relax` is not installed")


def pushed() -> Crystals:
    salt = rocksalt()
    frac = salt.frac_coords + np.array([[0.03, 0.01, 0], [0, 0, 0]])
    return one(salt.atomic_numbers, frac, 1.02 * salt.lattices[0], "pushed")


@pytest.mark.parametrize(
    ("name", "dispersion"), [("chgnet", False), ("chgnet", True), ("7net-0", False)]
)
def test_forces_and_stresses_are_slopes_of_energies(name: str, dispersion: bool) -> None:
    pytest.importorskip("chgnet" if name == "chgnet" else "sevenn")
    potential = load_potential(name, dispersion=dispersion)
    crystal = pushed()
    step = 1e-3
    cart = crystal.frac_coords @ crystal.lattices[0]
    moved, strained = [], []
    for sign in (-1, 1):
        shifted = cart + np.array([[sign * step, 0, 0], [0, 0, 0]])
        frac = shifted @ np.linalg.inv(crystal.lattices[0])
        moved.append(replace(crystal, frac_coords=frac))
        strain = np.eye(3) + sign * step * np.diag([0, 1, 0])
        strained.append(replace(crystal, lattices=crystal.lattices @ strain))
    batch = Crystals.concatenate(
        [c.with_ids([str(i)]) for i, c in enumerate([crystal, *moved, *strained])]
    )
    found = potential.predict(batch)
    totals = found.energies * batch.num_atoms
    assert found.forces.shape == (10, 3)
    assert found.forces[0, 0] == pytest.approx(-(totals[2] - totals[1]) / (2 * step), rel=0.02)
    slope = (totals[4] - totals[3]) / (2 * step) / crystal.volumes[0]
    assert found.stresses[0, 1, 1] == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("name", ["chgnet", "7net-0"])
def test_batches_are_what_the_packages_own_calculators_give(name: str) -> None:
    batch = Crystals.concatenate([pushed(), rocksalt(5.5, "salt"), one([55], [[0, 0, 0]], 9.0)])
    if name == "chgnet":
        dynamics = pytest.importorskip("chgnet.model.dynamics")
        theirs = dynamics.CHGNetCalculator(chgnet_model("cpu"), use_device="cpu")
    else:
        calculator = pytest.importorskip("sevenn.calculator").SevenNetCalculator
        own = sevennet_checkpoint(sevennet_weights(SevenNet0.folder)).build_model()
        theirs = calculator(own, file_type="model_instance", device="cpu")
    found = load_potential(name).predict(batch)
    single = joined([ase_prediction(crystal, theirs) for crystal in batch])
    np.testing.assert_allclose(found.energies, single.energies, atol=1e-5)
    np.testing.assert_allclose(found.forces, single.forces, atol=1e-4)
    np.testing.assert_allclose(found.stresses, single.stresses, atol=1e-5)


def test_weights_that_would_run_code_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sevenn")

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"config": Harm(), "model_state_dict": {}}, tmp_path / "bad.pth")
    monkeypatch.setattr("crysmetrics.potentials.sevennet._weights", lambda _: tmp_path / "bad.pth")
    potential = SevenNetL3i5("cpu")
    potential.folder = "no such folder"
    with pytest.raises(UserError, match=r"SevenNet can't be used: .*"):
        potential.predict(rocksalt())
    assert not (tmp_path / "harm").exists()


@pytest.mark.usefixtures("chgnet")
def test_identities_name_weights_by_hash_and_dispersion() -> None:
    plain, full = (load_potential("chgnet", dispersion=d) for d in (False, True))
    assert plain.identity()["weights"] == full.identity()["weights"] == "chgnet 0.3.0"
    assert plain.sha256 == full.sha256
    assert len(plain.sha256) == len(hashlib.sha256().hexdigest())
    assert "dispersion" not in plain.identity()
    assert full.identity()["dispersion"].startswith("D3(BJ) but of Li and Na, dftd3 ")


@pytest.mark.usefixtures("chgnet")
def test_lithium_and_sodium_take_no_part_in_dispersion() -> None:
    plain, full = (load_potential("chgnet", dispersion=d) for d in (False, True))
    salt, cell = rocksalt(), rocksalt().lattices[0]
    batch = [salt, one([12, 8], salt.frac_coords, 0.75 * cell, "magnesia")]
    added = full.predict(Crystals.concatenate(batch)).energies * 2
    added -= plain.predict(Crystals.concatenate(batch)).energies * 2
    kept = salt.atomic_numbers != 11
    calculator = pytest.importorskip("dftd3.ase").DFTD3(method="PBE", damping="d3bj")
    alone = one(salt.atomic_numbers[kept], salt.frac_coords[kept], cell, "chlorine")
    assert added[0] == pytest.approx(ase_prediction(alone, calculator).energies[0], abs=1e-5)
    whole = ase_prediction(batch[1], calculator).energies[0] * 2
    assert added[1] == pytest.approx(whole, abs=1e-5)


@pytest.mark.usefixtures("chgnet")
def test_unknown_elements_are_refused() -> None:
    potential = load_potential("chgnet")
    with pytest.raises(ValueError, match="CHGNet knows no Am"):
        potential.predict(one([95], [[0, 0, 0]], 3.5))
    assert potential.predict(Crystals.empty()).forces.shape == (0, 3)


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match=r"Potentials are chgnet.*not 'magic'"):
        load_potential("magic")


class Springs(AsePotential):
    """Argon by Lennard-Jones: a second potential, which a file and a line make known."""

    name, title, elements, sha256 = "springs 1", "Springs", frozenset({18}), "0" * 64

    def calculator(self, crystal: Crystals) -> object:
        from ase.calculators.lj import LennardJones

        return LennardJones(sigma=3.4, epsilon=0.0103, rc=20.0, smooth=True)


def test_another_potential_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(POTENTIALS) >= {"chgnet"}
    monkeypatch.setitem(registry.POTENTIALS, "springs", f"{__name__}:Springs")
    cell = 5.6 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    argon = one([18], [[0, 0, 0]], cell, "argon")
    exact = RelaxationSettings(max_force=1e-4, max_steps=300)
    [found] = relax(argon, "cpu", False, potential="springs", settings=exact)
    assert found.properties[CONVERGED][0]
    assert not found.failures
    # The nearest neighbours of a Lennard-Jones crystal are 1.09 sigma apart.
    assert found.volumes[0] == pytest.approx((1.09 * 3.4) ** 3 / 2**0.5, rel=0.02)
    assert found.properties[ENERGY][0] == pytest.approx(-8.6 * 0.0103, rel=0.05)
    [failed] = relax(rocksalt(), "cpu", False, potential="springs")
    assert failed.failures[0].reason == "could not be relaxed: Springs knows no Na"


def test_other_packages_add_potentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "soft_argon.py").write_text(
        """
from ase.calculators.lj import LennardJones
from crysmetrics.potentials.base import AsePotential


class Argon(AsePotential):
    name, title, elements, sha256 = "argon 1", "Argon", frozenset({18}), "5" * 64
    corrected, element_energies = True, {18: -0.05}

    def calculator(self, crystal):
        return LennardJones(sigma=3.4, epsilon=0.0103, rc=10.0, smooth=True)
"""
    )
    added = tmp_path / "soft_argon-1.dist-info"
    added.mkdir()
    (added / "METADATA").write_text("Metadata-Version: 2.1\nName: soft-argon\nVersion: 1\n")
    (added / "entry_points.txt").write_text(
        "[crysmetrics.potentials]\nargon = soft_argon:Argon\nlost = soft_argon:Nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    cell = 5.4 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    solid = one([18], [[0, 0, 0]], cell, "argon")
    settings = StabilitySettings(("argon",), relaxation=RelaxationSettings(max_force=0.001))
    found = stability(solid, settings)
    assert found.formation["argon"][0] == pytest.approx(-0.086 + 0.05, abs=0.01)
    assert found.relaxed.volumes[0] == pytest.approx(5.25**3 / 4, rel=0.03)
    with pytest.raises(UserError, match="can't be loaded from soft_argon:Nothing"):
        load_potential("lost")
    with pytest.raises(UserError, match="7net-l3i5, argon, lost; not 'magic'"):
        load_potential("magic")
