"""Projection onto space groups of all crystal families."""

from __future__ import annotations

import moyopy
import numpy as np
import pytest

from crysmetrics.space_groups.groups import space_group
from crysmetrics.space_groups.lattices import symmetric_lattice
from crysmetrics.space_groups.projection import Orbits


@pytest.mark.parametrize("number", [2, 14, 43, 62, 136, 166, 194, 198, 217, 225])
def test_projected_crystals_have_the_group_and_stay(number: int) -> None:
    group, rng = space_group(number), np.random.default_rng(number)
    general = group.positions[-1]
    orbits = Orbits(group, (*group.positions, general))
    rough = rng.random((sum(p.multiplicity for p in orbits.positions), 3))
    lattice = symmetric_lattice(np.eye(3) * 25 + rng.normal(size=(3, 3)), group.rotations)
    frac = orbits.project_frac_coords(rough)
    assert np.abs(orbits.project_frac_coords(frac) - frac).max() < 1e-9
    sites = np.concatenate([p.sites(rng.random(len(p.free))) for p in orbits.positions])
    np.testing.assert_allclose(orbits.project_frac_coords(sites), sites, atol=1e-9)
    field = orbits.project_displacements(rng.normal(size=rough.shape))
    np.testing.assert_allclose(orbits.project_displacements(field), field, atol=1e-9)
    moved = sites + 0.01 * field
    np.testing.assert_allclose(orbits.project_frac_coords(moved), moved, atol=1e-9)
    few = slice(-2 * general.multiplicity, None)
    numbers = np.repeat([1, 2], general.multiplicity)
    cell = moyopy.Cell(lattice.tolist(), frac[few].tolist(), numbers.tolist())
    assert moyopy.MoyoDataset(cell, symprec=1e-3).number == number
