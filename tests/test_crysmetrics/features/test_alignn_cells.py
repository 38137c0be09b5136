"""Energies and features of one crystal in many cells."""

from itertools import product

import numpy as np
import pytest
from sets import one, rocksalt

from crysmetrics.evaluation import as_sample
from crysmetrics.features.alignn.extractor import evaluate
from crysmetrics.features.alignn.graph import line_graphs
from crysmetrics.features.alignn.weights import load_weights
from crysmetrics.io import Crystals

DIAGONAL = {"2x1x1": (2, 1, 1), "2x2x2": (2, 2, 2), "1x1x3": (1, 1, 3)}
CENTRED = {
    "F": [[-1, 1, 1], [1, -1, 1], [1, 1, -1]],
    "I": [[0, 1, 1], [1, 0, 1], [1, 1, 0]],
    "R": [[1, -1, 0], [0, 1, -1], [1, 1, 1]],
}
"""Conventional cells from the primitive ones of these centrings."""


def in_cell(crystal, matrix, name):
    """The crystal in the cell whose vectors are `matrix @ lattice`, in integers."""
    matrix = np.asarray(matrix)
    count = round(abs(np.linalg.det(matrix)))
    inverse = np.linalg.inv(matrix)
    ranges = [range(-n, n + 1) for n in np.abs(matrix).sum(axis=0)]
    points = np.array(list(product(*ranges)))
    inside = points @ inverse
    points = points[((inside > -1e-6) & (inside < 1 - 1e-6)).all(axis=1)]
    assert len(points) == count
    frac = ((crystal.frac_coords[:, None] + points) @ inverse).reshape(-1, 3)
    numbers = np.repeat(crystal.atomic_numbers, count)
    return Crystals(numbers, frac, [matrix @ crystal.lattices[0]], [len(frac)], [name])


def shear(rng):
    """A random unimodular matrix: another cell of the same lattice."""
    matrix = np.eye(3, dtype=int)
    for _ in range(4):
        i, j = rng.choice(3, 2, replace=False)
        matrix[i] += rng.choice([-1, 1]) * matrix[j]
    return matrix


def cells_of(crystal, rng):
    """The crystal as given, in larger and in sheared cells, and with atoms in another order."""
    found = [crystal.with_ids(["given"])]
    found += [in_cell(crystal, np.diag(n), name) for name, n in DIAGONAL.items()]
    found += [in_cell(crystal, matrix, name) for name, matrix in CENTRED.items()]
    found += [in_cell(crystal, shear(rng), f"sheared {k}") for k in range(2)]
    found.append(in_cell(crystal, np.diag((1, 2, 1)) @ shear(rng), "sheared 1x2x1"))
    order = rng.permutation(len(crystal.atomic_numbers))
    moved = crystal.frac_coords[order] + rng.random(3)
    numbers = crystal.atomic_numbers[order]
    return [*found, Crystals(numbers, moved, crystal.lattices, crystal.num_atoms, ["moved"])]


def antifluorite():
    """Primitive Li2O."""
    cell = 4.62 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return one([8, 3, 3], [[0] * 3, [0.25] * 3, [0.75] * 3], cell, "Li2O")


def real_crystals(count, atoms):
    """Some of the shipped reference with at most so many atoms."""
    crystals = as_sample("mp20-test-bt", "ref").crystals
    small = np.flatnonzero(crystals.num_atoms <= atoms)
    chosen = small[np.linspace(0, len(small) - 1, count).astype(int)]
    return list(crystals[chosen])


def test_every_cell_of_a_crystal_has_its_features_and_energy():
    rng = np.random.default_rng(0)
    for crystal in (*real_crystals(12, 6), rocksalt(), antifluorite()):
        cells = Crystals.concatenate(cells_of(crystal, rng))
        features, energies, failures = evaluate(cells, device="cpu", workers=1)
        assert not failures
        np.testing.assert_allclose(energies, energies[0], atol=1e-5, err_msg=crystal.ids[0])
        np.testing.assert_allclose(
            features, np.tile(features[0], (len(cells), 1)), atol=1e-5, err_msg=crystal.ids[0]
        )


@pytest.mark.slow
def test_every_cell_of_many_crystals():
    rng = np.random.default_rng(1)
    for crystal in real_crystals(300, 12):
        cells = Crystals.concatenate(cells_of(crystal, rng))
        features, energies, _ = evaluate(cells, device="cpu")
        np.testing.assert_allclose(energies, energies[0], atol=1e-5, err_msg=crystal.ids[0])
        np.testing.assert_allclose(
            features, np.tile(features[0], (len(cells), 1)), atol=1e-5, err_msg=crystal.ids[0]
        )


@pytest.mark.parametrize("fold", [0.0, 1e-5])
def test_graphs_grow_with_the_cell(fold):
    """As many bonds and pairs an atom in every cell; folded, the same graph."""
    crystals = [*real_crystals(5, 4), antifluorite()]
    rng = np.random.default_rng(2)
    for crystal in crystals:
        cells = Crystals.concatenate(cells_of(crystal, rng))
        graphs = line_graphs(cells, fold=fold)
        per_atom = cells.num_atoms if fold == 0 else np.ones(len(cells))
        for counts in (np.diff(graphs.bond_offsets), graphs.num_pairs):
            assert len(set((counts / per_atom).round(9))) == 1, crystal.ids[0]


def test_published_graphs_depend_on_the_cell():
    """As in the original: in a larger cell, fewer bonds join an atom to its own images."""
    crystal = antifluorite()
    cells = Crystals.concatenate([crystal, in_cell(crystal, CENTRED["F"], "conventional")])
    graphs = line_graphs(cells, rule="published", fold=0)
    small, large = np.diff(graphs.bond_offsets) / cells.num_atoms
    assert small > large


def test_our_weights_have_graphs_of_every_cell():
    assert load_weights("alignn-mp-v1").rule == "cell_independent"
