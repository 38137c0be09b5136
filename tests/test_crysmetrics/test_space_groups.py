"""Tables of Wyckoff positions against pymatgen's, and lattices against crystal systems."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import moyopy
import numpy as np
import pymatgen.analysis
import pytest

from crysmetrics.space_groups.groups import GRID, space_group
from crysmetrics.space_groups.lattices import symmetric_lattice

FREEDOM = {
    "triclinic": 6, "monoclinic": 4, "orthorhombic": 3,
    "tetragonal": 2, "trigonal": 2, "hexagonal": 2, "cubic": 1,
}  # fmt: skip


def table_of_pymatgen(name: str) -> dict[str, dict[str, int]]:
    folder = Path(next(iter(pymatgen.analysis.__path__))) / "prototypes"
    with gzip.open(folder / f"wyckoff-position-{name}.json.gz") as file:
        return json.load(file)


def test_positions_are_those_of_a_second_table() -> None:
    multiplicities, free = (table_of_pymatgen(name) for name in ("multiplicities", "params"))
    for number in range(1, 231):
        positions = space_group(number).positions
        assert {p.letter: p.multiplicity for p in positions} == multiplicities[str(number)]
        assert {p.letter: len(p.free) for p in positions} == free[str(number)]


def test_lattices_have_the_freedom_of_their_crystal_system() -> None:
    for number in range(1, 231):
        group = space_group(number)
        assert len(group.lattice_basis) == FREEDOM[group.crystal_system]


@pytest.mark.parametrize("number", range(1, 231, 9))
def test_operations_take_every_orbit_to_itself(number: int) -> None:
    group, rng = space_group(number), np.random.default_rng(number)
    for position in group.positions:
        frac = position.sites(rng.random(len(position.free)))
        images = np.einsum("gij,nj->gni", group.rotations, frac)
        images += group.translations[:, None]
        steps = images[:, :, None] - frac
        steps -= np.round(steps)
        assert (np.abs(steps).max(axis=3) < 1e-9).any(axis=2).all()
        moved = group.rotations[position.operations] @ frac[0]
        moved += group.translations[position.operations] - frac
        assert np.abs(moved - np.round(moved)).max() < 1e-9
        assert (position.shifts < GRID).all()


@pytest.mark.parametrize("number", [2, 14, 62, 136, 166, 194, 225])
def test_crystals_built_from_positions_have_the_letters_that_moyo_finds(number: int) -> None:
    group, rng = space_group(number), np.random.default_rng(number)
    lattice = np.eye(3) * 9 + rng.normal(size=(3, 3))
    lattice = symmetric_lattice(lattice, group.rotations)
    general = group.positions[-1]
    orbits = [general.sites(rng.random(3)) for _ in range(2)] + [group.positions[0].sites(
        rng.random(len(group.positions[0].free)))]  # fmt: skip
    numbers = np.repeat([1, 2, 3], [len(orbit) for orbit in orbits])
    cell = moyopy.Cell(lattice.tolist(), np.concatenate(orbits).tolist(), numbers.tolist())
    found = moyopy.MoyoDataset(cell, symprec=1e-3)
    assert found.number == number
    assert found.hall_number == group.hall_number
    assert set(found.wyckoffs[: -len(orbits[2])]) == {general.letter}


@pytest.mark.parametrize("number", [1, 5, 62, 136, 166, 194, 225])
def test_lattices_are_projected_once_and_for_all(number: int) -> None:
    rotations = space_group(number).rotations
    lattice = np.eye(3) * 5 + np.random.default_rng(number).normal(size=(3, 3))
    once = symmetric_lattice(lattice, rotations)
    metric = once @ once.T
    np.testing.assert_allclose(np.swapaxes(rotations, 1, 2) @ metric @ rotations,
                               np.broadcast_to(metric, rotations.shape), atol=1e-9)  # fmt: skip
    np.testing.assert_allclose(symmetric_lattice(once, rotations), once, atol=1e-9)
