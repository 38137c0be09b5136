"""Bonds against pymatgen's structure graphs with CDVAE's settings."""

from importlib.resources import files

import numpy as np
import pytest
from pymatgen.analysis.graphs import StructureGraph
from pymatgen.analysis.local_env import CrystalNN
from sets import one, random_crystals, rocksalt

from crysmetrics.features.bonds import crystalnn_bonds
from crysmetrics.io import Crystals, read


def reference():
    """Read the real crystals that come with the package."""
    return read(files("crysmetrics.examples").joinpath("reference.zip"))


def edges_of(bonds):
    """Directed bonds as a set of (target, source, image)."""
    return set(map(tuple, np.column_stack([bonds.target, bonds.source, bonds.images]).tolist()))


def pymatgen_edges(structure):
    """Both directions of every edge of pymatgen's structure graph."""
    strategy = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
    graph = StructureGraph.from_local_env_strategy(structure, strategy)
    edges = set()
    for i, j, image in graph.graph.edges(data="to_jimage"):
        edges.add((i, j, *(int(x) for x in image)))
        edges.add((j, i, *(-int(x) for x in image)))
    return edges


def test_equal_to_pymatgens_graphs():
    crystals = Crystals.concatenate(
        [
            read(files("crysmetrics.examples").joinpath("reference.zip"))[:12],
            random_crystals(6, seed=3, atoms=(1, 9)),
            rocksalt(),
        ]
    )
    for i, structure in enumerate(crystals.to_pymatgen()):
        assert edges_of(crystalnn_bonds(crystals[[i]], 1)) == pymatgen_edges(structure), i


def test_vectors_lead_from_target_to_source():
    crystals = random_crystals(5, seed=4, atoms=(2, 6))
    bonds = crystalnn_bonds(crystals, 1)
    owner = crystals.structure_index[bonds.target]
    assert (owner == crystals.structure_index[bonds.source]).all()
    frac = crystals.frac_coords
    difference = frac[bonds.source] + bonds.images - frac[bonds.target]
    expected = np.einsum("mi,mij->mj", difference, crystals.lattices[owner])
    np.testing.assert_allclose(bonds.vectors, expected, atol=1e-9)


def test_bonds_are_there_in_both_directions_and_sorted_by_target():
    bonds = crystalnn_bonds(reference()[:20], 1)
    edges = edges_of(bonds)
    assert len(edges) == len(bonds.source)
    assert {(j, i, -a, -b, -c) for i, j, a, b, c in edges} == edges
    assert (np.diff(bonds.target) >= 0).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_crystal_that_fails_is_named_and_the_others_keep_their_bonds(workers):
    flat = one([6, 6], [[0, 0, 0], [0.5, 0.5, 0.5]], [[3, 0, 0], [0, 3, 0], [3, 3, 0]], "flat")
    crystals = Crystals.concatenate([rocksalt(), flat, rocksalt(name="again")])
    bonds = crystalnn_bonds(crystals, workers)
    assert list(bonds.failures) == [1]
    assert bonds.failures[1] == "The cell has no volume."
    first = len(rocksalt().atomic_numbers)
    assert set(np.unique(bonds.target)) == {*range(first), *range(first + 2, 2 * first + 2)}


def test_no_crystals():
    bonds = crystalnn_bonds(random_crystals(2, seed=1)[:0], 1)
    assert len(bonds.source) == 0
    assert bonds.failures == {}
