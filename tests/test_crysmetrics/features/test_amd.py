"""Average minimum distances against brute force, and what they must not depend on."""

import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

from crysmetrics.features.amd import NEIGHBOURS, extractor
from crysmetrics.features.extractor import Run
from crysmetrics.io import Crystals, from_pymatgen


def amd(crystals: Crystals, workers: int = 1) -> np.ndarray:
    values, failures = extractor("amd", Run()).compute(crystals, workers)
    assert not failures
    return values


def test_amd_equals_brute_force():
    crystals = random_crystals(12, 3)
    for crystal, found in zip(crystals, amd(crystals), strict=True):
        cart = crystal.frac_coords @ crystal.lattices[0]
        grid = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), -1).reshape(-1, 3)
        images = (cart[:, None] + grid @ crystal.lattices[0]).reshape(-1, 3)
        distances = np.linalg.norm(cart[:, None] - images[None], axis=-1)
        expected = np.sort(distances, axis=1)[:, 1 : NEIGHBOURS + 1].mean(axis=0)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_the_first_numbers_of_rock_salt_are_its_shells():
    found = amd(rocksalt(5.64))[0]
    np.testing.assert_allclose(found[:6], 5.64 / 2)
    np.testing.assert_allclose(found[6:18], 5.64 / 2**0.5)
    np.testing.assert_allclose(found[18:26], 5.64 * 3**0.5 / 2)


def test_amd_is_the_same_for_supercells_turned_and_shifted():
    crystals = random_crystals(10, 4)
    rng = np.random.default_rng(0)
    structures = crystals.to_pymatgen()
    for structure in structures:
        structure.make_supercell([[2, 1, 0], [0, 1, 0], [1, 0, 1]])
        structure.translate_sites(range(len(structure)), rng.random(3))
    large = from_pymatgen(structures)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = Crystals(
        large.atomic_numbers, large.frac_coords, large.lattices @ turn, large.num_atoms, large.ids
    )
    np.testing.assert_allclose(amd(turned), amd(crystals), atol=1e-6)


def test_amd_changes_by_at_most_twice_the_displacement():
    crystals = random_crystals(20, 6)
    rng = np.random.default_rng(1)
    moves = rng.normal(size=crystals.frac_coords.shape)
    moves *= 0.05 / np.linalg.norm(moves, axis=1, keepdims=True)
    inverse = np.linalg.inv(crystals.lattices)[crystals.structure_index]
    moved = Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords + np.einsum("ni,nij->nj", moves, inverse),
        crystals.lattices,
        crystals.num_atoms,
        crystals.ids,
    )
    change = np.abs(amd(moved) - amd(crystals)).max(axis=1)
    assert (change <= 0.1 + 1e-9).all()
    assert change.max() > 0.01


def test_odd_cells_have_numbers_and_flat_ones_a_reason():
    frac = [[0, 0, 0], [0.5, 0.5, 0.5]]
    needle = one([11, 17], frac, np.diag([0.05, 300.0, 400.0]), "needle")
    sheet = one([11, 17], frac, np.diag([3.0, 3.0, 900.0]), "sheet")
    flat = one([11, 17], frac, [[4, 0, 0], [0, 4, 0], [4, 4, 0]], "flat")
    both = Crystals.concatenate([rocksalt(), needle, flat, sheet])
    values, failures = extractor("amd", Run()).compute(both, 2)
    assert failures == {2: "its cell has no volume"}
    assert np.isnan(values[2]).all()
    np.testing.assert_allclose(values[1], 0.05 * np.repeat(np.arange(1, 51), 2), atol=1e-9)
    assert np.isfinite(values[[0, 3]]).all()
    assert (np.diff(values[[0, 1, 3]], axis=1) >= -1e-12).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_amd_does_not_depend_on_workers(workers):
    crystals = random_crystals(300, 8)
    np.testing.assert_array_equal(amd(crystals, workers), amd(crystals))
