"""Bonds and line graphs against the rule spelled out, and what folding must not change."""

from itertools import product

import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

from crysmetrics.features.alignn.graph import GRAPH_RULES, line_graphs
from crysmetrics.io import Crystals


def bonds_by_the_rule(crystal, tolerance, rule="cell_independent", reach=3):
    """Directed bonds (source, target, vector) of one crystal, by trying all near images."""
    frac, cell = crystal.frac_coords, crystal.lattices[0]
    images = np.array(list(product(range(-reach, reach + 1), repeat=3)))
    kept = set()
    for i in range(len(frac)):
        found = []
        for j in range(len(frac)):
            vectors = (frac[j] + images - frac[i]) @ cell
            for image, d in zip(images, np.linalg.norm(vectors, axis=1), strict=True):
                if d > 0.15:
                    found.append((d, j, tuple(int(k) for k in image)))
        found.sort()
        limit = found[11][0] + tolerance
        for d, j, image in found:
            if d <= limit:
                back = tuple(-k for k in image)
                if i == j and rule == "cell_independent":
                    kept.add((i, j, max(image, back)))
                else:
                    kept.add((i, j, image) if i <= j else (j, i, back))
    for i, j, image in kept:
        vector = (frac[j] + np.array(image) - frac[i]) @ cell
        yield i, j, vector
        yield j, i, -vector


def in_order(*columns):
    """Rows (integers first, then a number) in an order that rounding does not change."""
    rows = np.column_stack([np.asarray(column, dtype=float) for column in columns])
    return rows[np.lexsort(rows.T[::-1])]


def same_bonds(graph, bonds):
    """Whether a graph has these bonds, as often."""
    source, target, vectors = (np.array(part) for part in zip(*bonds, strict=True))
    expected = in_order(source, target, np.linalg.norm(vectors, axis=1))
    found = in_order(graph.bond_source, graph.bond_target, graph.bond_lengths)
    return expected.shape == found.shape and np.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rule", GRAPH_RULES)
@pytest.mark.parametrize("seed", range(3))
def test_bonds_and_angles_follow_the_rule(seed, rule):
    crystals = random_crystals(4, seed=seed, atoms=(1, 4))
    for crystal in (*crystals, rocksalt()):
        bonds = list(bonds_by_the_rule(crystal, 1e-4, rule))
        graph = line_graphs(crystal, fold=0, rule=rule)
        assert same_bonds(graph, bonds)
        angles = [
            (w, -r @ s / np.linalg.norm(r) / np.linalg.norm(s))
            for e, (_, v, r) in enumerate(bonds)
            for f, (w, _, s) in enumerate(bonds)
            if v == w and (e != f or rule == "cell_independent")
        ]
        middle = graph.bond_source[graph.pair_target]
        assert (graph.bond_target[graph.pair_source] == middle).all()
        np.testing.assert_allclose(
            in_order(middle, graph.pair_cosines), in_order(*zip(*angles, strict=True)), atol=1e-6
        )


def test_rock_salt_by_hand():
    graph = line_graphs(rocksalt(), fold=0)
    # Six neighbours of the other kind and twelve of its own; any bond meets all those at its start.
    assert len(graph.bond_source) == 2 * 6 + 2 * 12
    assert len(graph.pair_source) == 2 * 18 * 18
    folded = line_graphs(rocksalt())
    assert sorted(folded.bond_counts) == [6, 6, 12, 12]
    assert (folded.pair_counts.sum(), folded.atom_sizes.sum()) == (4 * 18, 2)


def test_rock_salt_by_hand_as_published():
    graph = line_graphs(rocksalt(), fold=0, rule="published")
    # Six neighbours of the other kind and twelve of its own, each of those twice.
    assert len(graph.bond_source) == 2 * 6 + 2 * 24
    assert (np.bincount(graph.bond_target) == 30).all()
    # A bond to an own image meets all 30 bonds at its start but itself.
    assert len(graph.pair_source) == 12 * 30 + 48 * 29
    folded = line_graphs(rocksalt(), rule="published")
    assert len(folded.atomic_numbers) == 2
    assert len(folded.bond_source) == 4
    assert sorted(folded.bond_counts) == [6, 6, 24, 24]
    assert (folded.pair_counts.sum(), folded.atom_sizes.sum()) == (30 + 30 + 29 + 29, 2)


def test_every_part_is_sorted_and_complete():
    graphs = line_graphs(random_crystals(20, seed=5))
    assert (np.diff(graphs.bond_target) >= 0).all()
    assert (np.diff(graphs.pair_target) >= 0).all()
    owner = np.repeat(np.arange(20), graphs.atom_counts)
    bond_owner = np.repeat(np.arange(20), np.diff(graphs.bond_offsets))
    assert (owner[graphs.bond_source] == bond_owner).all()
    assert (owner[graphs.bond_target] == bond_owner).all()
    pair_owner = np.repeat(np.arange(20), graphs.num_pairs)
    assert (bond_owner[graphs.pair_source] == pair_owner).all()
    assert (bond_owner[graphs.pair_target] == pair_owner).all()


def test_slices_are_the_graphs_of_slices():
    crystals = Crystals.concatenate([random_crystals(6, seed=1), rocksalt()])
    graphs = line_graphs(crystals)
    chosen = [5, 0, 6]
    part, own = graphs[chosen], line_graphs(crystals[chosen])
    for name in own.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(part, name), getattr(own, name), err_msg=name)


@pytest.mark.parametrize("fold", [0.0, 1e-5])
def test_workers_change_nothing(fold):
    crystals = random_crystals(150, seed=2, atoms=(2, 12))
    a, b = (line_graphs(crystals, fold=fold, workers=n) for n in (1, 3))
    for name in a.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_rounding_does_not_choose_neighbours():
    # Turned at random, the equal distances of a cubic crystal differ in their last digits.
    rng = np.random.default_rng(0)
    for _ in range(20):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        crystal = rocksalt()
        turned = Crystals(
            crystal.atomic_numbers,
            crystal.frac_coords + rng.random(3),
            crystal.lattices @ turn,
            crystal.num_atoms,
            crystal.ids,
        )
        assert len(line_graphs(turned, fold=0).bond_source) == 36
        assert len(line_graphs(turned).bond_source) == 4


def test_atoms_on_top_of_each_other_are_not_neighbours():
    # Fifteen atoms within 0.1 Å leave no other in the list of the twelve nearest.
    rng = np.random.default_rng(3)
    clump = 0.5 + rng.uniform(-0.005, 0.005, size=(15, 3))
    crystal = one([8] * 16, [[0, 0, 0], *clump.tolist()], 6.0)
    graph = line_graphs(crystal, fold=0)
    assert graph.bond_lengths.min() > 0.15
    assert np.isfinite(graph.pair_cosines).all()
    assert same_bonds(graph, bonds_by_the_rule(crystal, 1e-4))


def test_a_flat_cell_is_named():
    flat = one([3], [[0, 0, 0]], [[3, 0, 0], [0, 3, 0], [3, 3, 1e-14]], "flat")
    graphs = line_graphs(Crystals.concatenate([rocksalt(), flat, rocksalt(name="again")]))
    assert list(graphs.failures) == [1]
    assert graphs.atom_counts.tolist() == [2, 0, 2]
    assert len(line_graphs(Crystals.empty())) == 0
