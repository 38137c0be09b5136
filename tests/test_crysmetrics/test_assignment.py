"""Crystals as orbits: found in any cell, and placed again."""

from __future__ import annotations

from pathlib import Path

import moyopy
import numpy as np
import pytest

from crysmetrics.examples import unpack
from crysmetrics.geometry import min_distance
from crysmetrics.io import CrystalsBuilder, read
from crysmetrics.matching.distances import rms_distances
from crysmetrics.space_groups.assignment import assign_orbits
from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.lattices import symmetric_lattice
from crysmetrics.symmetrize import impose_setting
from crysmetrics.symmetry import Cell, cells_of

UNIMODULAR = np.array([[1, 1, 0], [0, 1, 2], [0, 0, -1]])


def rutile() -> Cell:
    x = 0.305
    oxygen = [[x, x, 0], [1 - x, 1 - x, 0], [0.5 - x, 0.5 + x, 0.5], [0.5 + x, 0.5 - x, 0.5]]
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5], *oxygen])
    return Cell(np.diag([4.6, 4.6, 2.96]), frac, np.array([22, 22, 8, 8, 8, 8]))


def test_rutile_is_what_tables_say() -> None:
    found = assign_orbits(rutile(), 0.01)
    assert found.space_group.number == 136
    assert found.elements.tolist() == [22, 8]
    assert [p.letter for p in found.positions] in (["a", "f"], ["b", "f"])
    x = found.parameters[1, 0]
    assert min(abs(x - value) for value in (0.305, 0.695, 0.195, 0.805)) < 1e-6


@pytest.mark.parametrize("number", [1, 5, 9, 43, 82, 110, 146, 155, 178, 198, 214, 220, 228])
def test_orbits_are_found_in_any_cell(number: int) -> None:
    group, rng = space_group(number), np.random.default_rng(number)
    special = [p for p in group.positions[:-1] if len(p.free) < 3][:1]
    positions = [*special, group.positions[-1], group.positions[-1]]
    while True:
        sites = [p.sites(rng.random(len(p.free))) for p in positions]
        lattice = np.eye(3) * 14 + rng.normal(size=(3, 3))
        lattice = symmetric_lattice(lattice, group.rotations)
        if min_distance(lattice, np.concatenate(sites)) > 0.3:
            break
    numbers = np.repeat(np.arange(1, len(sites) + 1), [len(s) for s in sites])
    frac = np.concatenate(sites) @ np.linalg.inv(UNIMODULAR) + rng.random(3)
    order = rng.permutation(len(numbers))
    given = Cell(UNIMODULAR @ lattice, frac[order], numbers[order])
    found = assign_orbits(given, 0.01)
    assert found.space_group.number == number
    assert sorted(p.multiplicity for p in found.positions) == sorted(map(len, sites))
    for basis in (np.eye(3), group.primitive_basis):
        placed = found.cell(basis)
        moyo = moyopy.Cell(
            placed.lattice.tolist(), placed.frac_coords.tolist(), placed.atomic_numbers.tolist()
        )
        assert moyopy.MoyoDataset(moyo, symprec=1e-4).number == number
        assert len(placed.atomic_numbers) == round(len(numbers) * np.linalg.det(basis))
        shortest = min_distance(placed.lattice, placed.frac_coords)
        assert shortest == pytest.approx(min_distance(lattice, np.concatenate(sites)), abs=1e-4)


def test_crystals_of_the_examples_come_back(tmp_path: Path) -> None:
    _, reference = unpack(tmp_path)
    crystals = read(reference, workers=1)[np.arange(12)]
    builder = CrystalsBuilder()
    for name, cell in zip(crystals.ids, cells_of(crystals), strict=True):
        found = assign_orbits(cell, 0.01)
        lattice, frac, numbers = found.cell(found.space_group.primitive_basis)
        builder.add(name, numbers, frac, lattice, source=name)
    distances = rms_distances(crystals, builder.build(), [(i, i) for i in range(12)], workers=1)
    assert np.nanmax(distances) < 0.01
    assert np.isfinite(distances).all()


def test_a_setting_is_imposed_on_what_nearly_has_it() -> None:
    exact, rng = rutile(), np.random.default_rng(0)
    hall = space_group(136).hall_number
    moved = exact.frac_coords + 0.002 * rng.normal(size=(6, 3))
    bent = exact.lattice + 0.01 * rng.normal(size=(3, 3))
    found = impose_setting(Cell(bent, moved, exact.atomic_numbers), hall, 0.1)
    assert found is not None
    again = impose_setting(found, hall, 1e-9)
    assert again is not None
    steps = found.frac_coords - exact.frac_coords
    assert np.abs(steps - np.round(steps)).max() < 0.006
    assert impose_setting(Cell(bent, moved, exact.atomic_numbers), hall, 1e-4) is None
    assert impose_setting(exact, space_group(194).hall_number, 0.1) is None
