"""Crystals that are made symmetric in the cells they stand in."""

import numpy as np
import pytest
from sets import one, rocksalt
from test_crysmetrics.test_symmetrized import shaken

from crysmetrics.examples import unpack
from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals, read
from crysmetrics.io.symmetrized import symmetrized_in_place
from crysmetrics.matching.distances import rms_distances
from crysmetrics.symmetrize import EXACT, symmetrize_in_place
from crysmetrics.symmetry import cells_of, primitive_cell, space_groups


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Real crystals in their primitive cells."""
    _, reference = unpack(tmp_path_factory.mktemp("examples"))
    crystals = read(reference, workers=1)
    parts = []
    for name, cell in zip(crystals.ids[:40], cells_of(crystals[:40]), strict=True):
        lattice, frac, numbers = primitive_cell(cell, 0.01)
        parts.append(one(numbers.tolist(), frac.tolist(), lattice, name))
    return Crystals.concatenate(parts)


def test_groups_come_back_from_noise_and_are_exact(real):
    groups = space_groups(real, 0.01)
    noisy = shaken(real, 0.03, 0)
    assert (space_groups(noisy, EXACT) == 1).mean() > 0.9
    exact = symmetrized_in_place(noisy, 0.5)
    found = space_groups(exact, EXACT)
    assert (found == groups).mean() > 0.8
    assert (found == space_groups(exact, 1e-5)).all()
    assert (found[groups > 1] > 1).mean() > 0.9


def test_nothing_else_changes(real):
    noisy = shaken(real, 0.05, 1)
    exact = symmetrized_in_place(noisy, 0.5)
    np.testing.assert_array_equal(exact.atomic_numbers, noisy.atomic_numbers)
    assert exact.ids == noisy.ids
    pairs = np.repeat(np.arange(len(real))[:, None], 2, axis=1)
    assert np.isfinite(rms_distances(exact, noisy, pairs, workers=1)).all()
    assert (np.abs(exact.volumes / noisy.volumes - 1) < 0.06).all()
    assert (min_distances(exact, 1) >= 0.8 * min_distances(noisy, 1) - 1e-6).all()
    # Axes stay where they are, so that atoms can be compared as they stand.
    assert np.abs(exact.lattices - noisy.lattices).max() < 0.03 * np.abs(noisy.lattices).max()


def test_an_exact_crystal_stays(real):
    once = symmetrized_in_place(real, 0.5)
    twice = symmetrized_in_place(once, 0.5)
    np.testing.assert_allclose(twice.lattices, once.lattices, atol=1e-9)
    steps = twice.frac_coords - once.frac_coords
    assert np.abs(steps - np.round(steps)).max() < 1e-9


def test_no_atom_moves_farther_than_the_tolerance():
    frac = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.52]])
    cell = cells_of(one([55, 17], frac.tolist(), 4.1 * np.eye(3)))[0]
    assert symmetrize_in_place(cell, 0.03).space_group == 99
    moved = symmetrize_in_place(cell, 0.1)
    assert moved.space_group == 221
    assert moved.displacement == pytest.approx(0.02 * 4.1 / 2)


def test_distortions_of_a_crystal_that_is_otherwise_exact_are_kept():
    """Half an Å would be within the tolerance, yet all other operations hold to a hundredth."""
    frac = [[0, 0, 0.0], [0.5, 0.5, 0.56], [0.5, 0.5, 0.02], [0.5, 0, 0.51], [0, 0.5, 0.51]]
    cell = cells_of(one([56, 22, 8, 8, 8], frac, 4.0 * np.eye(3)))[0]
    assert symmetrize_in_place(cell, 0.5).space_group == 99


def test_a_cell_never_becomes_a_smaller_one():
    """Two cells of CsCl with atoms off their sites: the translation between them is not made."""
    frac = [[0, 0, 0.0], [0, 0, 0.54], [0.5, 0.5, 0.27], [0.5, 0.5, 0.77]]
    cell = cells_of(one([55, 55, 17, 17], frac, np.diag([4.1, 4.1, 8.2])))[0]
    found = symmetrize_in_place(cell, 0.5)
    assert len(primitive_cell(found.cell, EXACT).atomic_numbers) == 4


def test_the_order_of_atoms_and_the_choice_of_axes_play_no_part():
    salt = shaken(rocksalt(), 0.02, 3)
    cell = cells_of(salt)[0]
    order = np.random.default_rng(0).permutation(len(cell.atomic_numbers))
    sheared = np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]])
    other = one(
        cell.atomic_numbers[order].tolist(),
        (cell.frac_coords @ np.linalg.inv(sheared))[order].tolist(),
        sheared @ cell.lattice,
    )
    groups = [symmetrize_in_place(c, 0.3).space_group for c in (cell, cells_of(other)[0])]
    assert groups == [225, 225]


@pytest.mark.parametrize(
    ("frac", "lattice"),
    [
        ([[0.1, 0.2, 0.3], [0.15, 0.2, 0.3]], 4 * np.eye(3)),
        ([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], np.diag([9.0, 9.0, 0.7])),
    ],
)
def test_crystals_that_are_none_stay(frac, lattice):
    assert symmetrize_in_place(cells_of(one([3, 8], frac, lattice))[0], 0.5) is None


def test_chosen_ones_alone_are_moved():
    both = Crystals.concatenate([shaken(rocksalt(), 0.02, s).with_ids([str(s)]) for s in (0, 1)])
    exact = symmetrized_in_place(both, 0.3, np.array([False, True]))
    assert space_groups(exact, EXACT).tolist() == [1, 225]
    np.testing.assert_array_equal(exact[[0]].frac_coords, both[[0]].frac_coords)
    assert len(symmetrized_in_place(Crystals.empty(), 0.3)) == 0
