"""Neighbour search against brute force and pymatgen, in cells of all shapes."""

from itertools import product

import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

from crysmetrics.io import Crystals
from crysmetrics.periodic_neighbours import TIE, periodic_neighbours

RADIUS = 4.0


def skewed(cell, rng):
    """Another basis of the same lattice, many cells long."""
    change = np.eye(3)
    change[1, 0], change[2, 0], change[2, 1] = rng.integers(-7, 8, 3)
    return change @ cell


def extreme_crystals():
    rng = np.random.default_rng(3)
    cells = [rng.normal(size=(3, 3)) * 3 + 2 * np.eye(3) for _ in range(6)]
    cells += [skewed(cell, rng) for cell in cells]
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    cells += [
        np.diag([0.4, 4.0, 9.0]) @ turn,  # flat
        np.diag([0.5, 0.6, 20.0]) @ turn,  # a needle
        0.9 * np.eye(3),  # tiny, with equal distances
        -cells[0],  # left-handed
        np.array([[3.0, 0, 0], [2.9, 0.5, 0], [-1.4, 0.2, 0.6]]),  # nearly coplanar
        skewed(4.0 * np.eye(3), rng),
    ]
    parts = [one([6] * n, rng.random((n, 3)), c, str(i)) for i, (c, n) in enumerate(
        zip(cells, np.resize([1, 2, 3, 4], len(cells)), strict=True))]  # fmt: skip
    special = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0]]
    return Crystals.concatenate([*parts, one([6] * 4, special, 4.0, "special"), rocksalt()])


def brute_force(crystal, radius):
    """(source, target, image) -> distance, from all images that the cell's heights allow."""
    cell, frac = crystal.lattices[0], crystal.frac_coords
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    spans = [range(-n, n + 1) for n in np.ceil(radius / heights).astype(int) + 1]
    images = np.array(list(product(*spans)))
    found = {}
    for i, j in product(range(len(frac)), repeat=2):
        lengths = np.linalg.norm((frac[j] - frac[i] + images) @ cell, axis=1)
        for k in np.flatnonzero(lengths <= radius):
            if i != j or images[k].any():
                found[(i, j, *images[k].tolist())] = lengths[k]
    return found


def as_dict(edges):
    rows = np.column_stack([edges.source, edges.target, edges.images]).tolist()
    return dict(zip(map(tuple, rows), edges.distances, strict=True))


def test_all_neighbours_equal_brute_force():
    for crystal in extreme_crystals():
        edges = periodic_neighbours(crystal, RADIUS)
        expected, found = brute_force(crystal, RADIUS + TIE), as_dict(edges)
        unsure = {k for k, d in expected.items() if abs(d - RADIUS - TIE) < 1e-9}
        assert set(found) - unsure == set(expected) - unsure
        assert all(abs(found[k] - expected[k]) < 1e-9 for k in set(found) & set(expected))


def test_all_neighbours_equal_pymatgen():
    crystals = random_crystals(10, seed=4, atoms=(1, 12))
    edges = periodic_neighbours(crystals, 8.0)
    for i, structure in enumerate(crystals.to_pymatgen()):
        source, target, images, distances = structure.get_neighbor_list(8.0)
        part = slice(*edges.structure_offsets[i : i + 2])
        first = crystals.offsets[i]
        mine = np.column_stack([edges.source[part] - first, edges.target[part] - first])
        mine = np.column_stack([mine, edges.images[part]])
        theirs = np.column_stack([source, target, images]).astype(np.int64)
        a, b = np.lexsort(mine.T), np.lexsort(theirs.T)
        np.testing.assert_array_equal(mine[a], theirs[b])
        np.testing.assert_allclose(edges.distances[part][a], distances[b], atol=1e-10)


def test_images_and_vectors_belong_to_the_given_cell():
    crystals = extreme_crystals()
    edges = periodic_neighbours(crystals, RADIUS, nearest=12)
    cells = crystals.lattices[crystals.structure_index[edges.source]]
    frac = crystals.frac_coords
    steps = frac[edges.target] + edges.images - frac[edges.source]
    np.testing.assert_allclose(np.einsum("ei,eij->ej", steps, cells), edges.vectors, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(edges.vectors, axis=1), edges.distances, atol=1e-12)


@pytest.mark.parametrize("whole_shells", [False, True])
@pytest.mark.parametrize("nearest", [1, 5, 12])
def test_the_nearest_are_the_first_of_all(nearest, whole_shells):
    crystals = extreme_crystals()
    options = {"tolerance": 1e-4 if whole_shells else TIE}
    every = periodic_neighbours(crystals, RADIUS, **options)
    some = periodic_neighbours(
        crystals, RADIUS, nearest=nearest, whole_shells=whole_shells, **options
    )
    for atom in range(len(crystals.atomic_numbers)):
        first, last = every.atom_offsets[atom : atom + 2]
        start, end = some.atom_offsets[atom : atom + 2]
        kept = end - start
        np.testing.assert_array_equal(some.target[start:end], every.target[first:][:kept])
        np.testing.assert_array_equal(some.images[start:end], every.images[first:][:kept])
        if not whole_shells:
            assert kept == min(nearest, last - first)
        elif last - first <= nearest:
            assert kept == last - first
        else:
            assert kept >= nearest
            if first + kept < last:  # the next one belongs to another shell
                assert every.distances[first + kept] > some.distances[end - 1]


def test_shells_of_rock_salt():
    edges = periodic_neighbours(rocksalt(), 8.0, nearest=12)
    assert edges.counts.tolist() == [12, 12]
    np.testing.assert_allclose(edges.distances[:6], 2.82, atol=1e-12)
    # Six unlike neighbours, then the first six of a shell of twelve like ones.
    assert edges.target[:12].tolist() == [1] * 6 + [0] * 6
    assert edges.images[6:12].tolist() == sorted(edges.images[6:12].tolist())
    whole = periodic_neighbours(rocksalt(), 8.0, nearest=12, whole_shells=True)
    assert whole.counts.tolist() == [18, 18]
    exact = periodic_neighbours(rocksalt(), 8.0, nearest=6, whole_shells=True)
    assert exact.counts.tolist() == [6, 6]


def test_a_shell_is_as_wide_as_its_tolerance():
    # Neighbours at 3, 3.0005 (twice each) along two axes; the third is far.
    crystal = one([6], [[0, 0, 0]], np.diag([3.0, 3.0005, 7.0]))
    narrow = periodic_neighbours(crystal, 4.0, nearest=1, whole_shells=True, tolerance=1e-4)
    wide = periodic_neighbours(crystal, 4.0, nearest=1, whole_shells=True, tolerance=1e-3)
    assert (narrow.counts[0], wide.counts[0]) == (2, 4)
    # Within the wide shell the order is that of the images, not of the distances.
    assert wide.images.tolist() == [[-1, 0, 0], [0, -1, 0], [0, 1, 0], [1, 0, 0]]


def test_does_not_depend_on_orientation_or_rounding():
    rng = np.random.default_rng(5)
    crystals = Crystals.concatenate([rocksalt(), one([6], [[0, 0, 0]], 2.5, "cube")])
    expected = periodic_neighbours(crystals, 8.0, nearest=12)
    for _ in range(5):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turned = Crystals(
            crystals.atomic_numbers,
            crystals.frac_coords,
            crystals.lattices @ turn,
            crystals.num_atoms,
            crystals.ids,
        )
        found = periodic_neighbours(turned, 8.0, nearest=12)
        np.testing.assert_array_equal(found.target, expected.target)
        np.testing.assert_array_equal(found.images, expected.images)


def test_does_not_depend_on_workers_or_batch(monkeypatch):
    crystals = random_crystals(30, seed=6)
    expected = periodic_neighbours(crystals, 6.0, nearest=12, workers=1)
    monkeypatch.setattr("crysmetrics.periodic_neighbours._PAIRS_PER_JOB", 50)
    found = periodic_neighbours(crystals, 6.0, nearest=12, workers=3)
    for name in ("source", "target", "images", "vectors", "structure_offsets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_atoms_on_one_place_are_neighbours_at_distance_zero():
    crystal = one([6, 6], [[0.1, 0.2, 0.3]] * 2, 5.0)
    edges = periodic_neighbours(crystal, 3.0)
    assert edges.target.tolist() == [1, 0]
    assert edges.distances.tolist() == [0.0, 0.0]


def test_far_apart_atoms_have_no_neighbours():
    edges = periodic_neighbours(one([6], [[0, 0, 0]], 50.0), 8.0, nearest=12)
    assert len(edges.source) == 0
    assert edges.failures == {}


def test_an_absurdly_dense_crystal_is_named_and_its_nearest_are_found():
    crystals = Crystals.concatenate(
        [rocksalt(), one([6], [[0, 0, 0]], 0.02, "dense"), rocksalt(6.0, "b")]
    )
    every = periodic_neighbours(crystals, 8.0)
    assert list(every.failures) == [1]
    assert "more than" in every.failures[1]
    assert np.diff(every.structure_offsets)[1] == 0
    assert (every.counts[[0, 1, 3, 4]] > 50).all()
    nearest = periodic_neighbours(crystals, 8.0, nearest=6)
    assert nearest.failures == {}
    np.testing.assert_allclose(nearest.distances[12:18], 0.02)


def test_a_cell_without_volume_is_named():
    flat = one([6], [[0, 0, 0]], [[3, 0, 0], [0, 3, 0], [3, 3, 0]], "flat")
    edges = periodic_neighbours(Crystals.concatenate([flat, rocksalt()]), 5.0, nearest=3)
    assert edges.failures == {0: "its cell has no volume"}
    assert edges.counts.tolist() == [0, 3, 3]


def test_no_structures():
    edges = periodic_neighbours(Crystals.empty(), 5.0)
    assert edges.images.shape == edges.vectors.shape == (0, 3)
    assert edges.structure_offsets.tolist() == [0]


@pytest.mark.parametrize(
    "options", [{"radius": 0.0}, {"radius": np.inf}, {"radius": 3.0, "nearest": 0}]
)
def test_refuses_nonsense(options):
    with pytest.raises(ValueError, match="must be"):
        periodic_neighbours(rocksalt(), **options)
