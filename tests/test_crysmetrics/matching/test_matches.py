"""Which crystals are the same, against pymatgen's `fit` and `fit_anonymous`."""

import os
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from sets import one, random_crystals, rocksalt

from crysmetrics import examples
from crysmetrics.errors import UserError
from crysmetrics.features.amd import extractor
from crysmetrics.features.extractor import Run
from crysmetrics.io import Crystals, read
from crysmetrics.matching import candidates, known
from crysmetrics.matching.candidates import pairs_of_one_key, parts_of_one_key
from crysmetrics.matching.cells import reduce_cells
from crysmetrics.matching.distances import matches
from crysmetrics.matching.duplicates import group_duplicates
from crysmetrics.matching.known import anonymous_cells, find_known, find_known_prototypes
from crysmetrics.matching.nearest import nearest_rows
from crysmetrics.matching.tolerances import TOLERANCES, Tolerances, parse_tolerances

USUAL = TOLERANCES["pymatgen"]


def fits(first: Crystals, second: Crystals, pairs: np.ndarray, tolerances: Tolerances, how="fit"):
    """pymatgen's answers in either order, without its cache of reduced structures, which takes
    structures within 1e-5 Å of each other for the same."""
    from pymatgen.core.structure_matcher import StructureMatcher

    matcher = StructureMatcher(
        ltol=tolerances.ltol, stol=tolerances.stol, angle_tol=tolerances.angle_tol
    )
    fit = getattr(matcher, how)
    a, b = first.to_pymatgen(), second.to_pymatgen()
    found = []
    for i, j in pairs.tolist():
        StructureMatcher._get_reduced_istructure.cache_clear()
        found.append([bool(fit(a[i], b[j])), bool(fit(b[j], a[i]))])
    return np.array(found)


def perturbed(crystals: Crystals, noise: float, strain: float, seed: int = 0) -> Crystals:
    """Positions moved by some Å and cells strained."""
    rng = np.random.default_rng(seed)
    moves = noise * rng.normal(size=crystals.frac_coords.shape)
    inverse = np.linalg.inv(crystals.lattices)[crystals.structure_index]
    return Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords + np.einsum("ni,nij->nj", moves, inverse),
        crystals.lattices @ (np.eye(3) + strain * rng.normal(size=crystals.lattices.shape)),
        crystals.num_atoms,
        [f"{name}-{noise}-{strain}-{seed}" for name in crystals.ids],
    )


def amd_of(crystals: Crystals) -> np.ndarray:
    return extractor("amd", Run()).compute(crystals, 1)[0]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Crystals:
    _, reference = examples.unpack(tmp_path_factory.mktemp("examples"))
    crystals = read(reference, workers=1)
    return crystals[np.flatnonzero(crystals.num_atoms <= 16)[::2]]


@pytest.mark.parametrize("tolerances", [USUAL, TOLERANCES["csp"], Tolerances(0.05, 0.1, 2.0)])
def test_matches_equal_pymatgen_near_the_tolerances(real, tolerances):
    """Displacements around the tolerance of positions, strains around those of cells."""
    size = float(np.mean((real.volumes / real.num_atoms) ** (1 / 3)))
    some = real[:: max(1, len(real) // 16)]
    index = np.stack([np.arange(len(some))] * 2, axis=1)
    agree, differ = 0, 0
    for noise, strain in ((0.2, 0.01), (0.4, 0.02), (0.02, 0.6 * tolerances.ltol)):
        noisy = perturbed(some, noise * tolerances.stol * size, strain)
        expected = fits(noisy, some, index, tolerances)
        found = matches(reduce_cells(noisy), reduce_cells(some), index, tolerances, workers=1)
        np.testing.assert_array_equal(found, expected.any(axis=1))
        agree += int(found.sum())
        differ += int((~found).sum())
    assert agree > 10
    assert differ > 10


def test_matches_equal_pymatgen_on_random_structures_of_one_composition():
    crystals = random_crystals(16, 5, (2, 2))
    same = Crystals(
        np.tile([3, 8], 16), crystals.frac_coords, crystals.lattices, [2] * 16, crystals.ids
    )
    pairs = np.array(list(combinations(range(16), 2)))
    cells = reduce_cells(same)
    for tolerances in TOLERANCES.values():
        expected = fits(same, same, pairs, tolerances).any(axis=1)
        np.testing.assert_array_equal(matches(cells, cells, pairs, tolerances), expected)
        assert 0 < expected.sum() < len(expected)


def test_sameness_does_not_depend_on_the_order_of_a_pair(real):
    noisy = perturbed(real, 0.35, 0.04)
    one_way, other_way = reduce_cells(noisy), reduce_cells(real)
    pairs = np.stack([np.arange(len(real))] * 2, axis=1)
    found = matches(one_way, other_way, pairs, USUAL)
    np.testing.assert_array_equal(matches(other_way, one_way, pairs, USUAL), found)
    assert 0 < found.sum() < len(found)


def retiled(crystals: Crystals, seed: int) -> Crystals:
    """Supercells in skewed settings, turned, shifted, atoms in another order."""
    rng = np.random.default_rng(seed)
    parts = []
    for crystal in crystals:
        structure = crystal.to_pymatgen()[0]
        structure.make_supercell([[1, 1, 0], [0, 1, 0], [0, 1, 2]])
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        order = rng.permutation(len(structure))
        frac = (structure.frac_coords + rng.random(3))[order]
        numbers = [int(z) for z in np.array(structure.atomic_numbers)[order]]
        name = f"{crystal.ids[0]}-tiled-{seed}"
        parts.append(one(numbers, frac.tolist(), structure.lattice.matrix @ turn, name))
    return Crystals.concatenate(parts)


def test_supercells_and_other_settings_are_the_same_crystal(real):
    some = real[:10]
    both = Crystals.concatenate([some, retiled(some, 1), retiled(some, 2)])
    labels = group_duplicates(both, USUAL)
    assert labels.tolist() == [*labels[:10].tolist()] * 3
    assert len(set(labels[:10].tolist())) == 10
    found = find_known(
        reduce_cells(both), reduce_cells(some), amd_of(both), amd_of(some), USUAL, workers=1
    )
    assert found.tolist() == [*range(10)] * 3


def chain() -> Crystals:
    """Five tetragonal crystals, each of which matches its neighbours in this row only."""
    cells = [np.diag([4.0, 4.0, 4.0 * 1.18**k]) for k in range(5)]
    return Crystals.concatenate(
        [one([55], [[0, 0, 0]], cell, f"link-{k}") for k, cell in enumerate(cells)]
    )


def test_groups_do_not_depend_on_the_order_where_matching_is_not_transitive():
    crystals = chain()
    cells = reduce_cells(crystals)
    pairs = np.array(list(combinations(range(5), 2)))
    same = matches(cells, cells, pairs, Tolerances(0.2, 0.3, 5.0))
    assert [(i, j) for (i, j), hit in zip(pairs.tolist(), same, strict=True) if hit] == [
        (k, k + 1) for k in range(4)
    ]
    partitions = set()
    for order in permutations(range(5)):
        labels = group_duplicates(crystals[list(order)], USUAL)
        assert labels[0] == 0  # numbered as they first occur
        groups = [frozenset(np.array(order)[labels == k].tolist()) for k in set(labels.tolist())]
        partitions.add(frozenset(groups))
    assert len(partitions) == 1
    assert 2 <= len(next(iter(partitions))) <= 3


def test_groups_have_representatives_that_do_not_match_and_members_that_match_one(real):
    some = real[:8]
    crystals = Crystals.concatenate(
        [some, *(perturbed(some, 0.3, 0.03, seed) for seed in range(6))]
    )
    labels = group_duplicates(crystals, USUAL)
    cells = reduce_cells(crystals)
    pairs = np.array(list(combinations(range(len(crystals)), 2)))
    same = np.eye(len(crystals), dtype=bool)
    same[tuple(pairs.T)] = same[tuple(pairs[:, ::-1].T)] = matches(cells, cells, pairs, USUAL)
    centres = [
        [i for i in members if same[i, members].all()]
        for members in (np.flatnonzero(labels == k) for k in range(labels.max() + 1))
    ]
    assert all(centres)
    # From the possible centres of each group one can be chosen so that none match.
    assert all(any(not same[i, j] for i in a for j in b) for a, b in combinations(centres, 2))
    assert 8 < labels.max() + 1 < len(crystals)


def test_cells_without_volume_are_in_no_group():
    flat = one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], [[4, 0, 0], [0, 4, 0], [4, 4, 0]], "flat")
    both = Crystals.concatenate([flat, rocksalt(), rocksalt(name="again")])
    assert group_duplicates(both, USUAL).tolist() == [-1, 0, 0]
    assert group_duplicates(Crystals.empty(), USUAL).shape == (0,)
    amd = np.full((3, 4), np.nan)
    cells = reduce_cells(both)
    assert find_known(cells, cells, amd, amd, USUAL).tolist() == [-1, 1, 1]


def test_prototypes_equal_pymatgen(real):
    """Pairs of one anonymous formula, against `fit_anonymous`."""
    crystals = Crystals.concatenate([real, perturbed(real, 0.15, 0.02)])
    cells = anonymous_cells(crystals)
    pairs = pairs_of_one_key(cells.compositions, cells.compositions, np.arange(len(crystals)))
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    pairs = pairs[np.random.default_rng(0).permutation(len(pairs))[:100]]
    expected = fits(crystals, crystals, pairs, USUAL, "fit_anonymous").any(axis=1)
    found = [
        known._permuted_matches(
            cells, cells, pair[None], known._amounts(cells, pair[0]), USUAL, workers=1
        )[0]
        for pair in pairs
    ]
    np.testing.assert_array_equal(found, expected)
    assert 5 < expected.sum() < len(expected) - 5


def test_a_known_prototype_is_one_whatever_the_elements():
    oxide = one([12, 8], [[0.5, 0.5, 0.5], [0, 0, 0]], rocksalt(4.21).lattices[0], "MgO")
    caesium = one([17, 55], [[0.5, 0.5, 0.5], [0, 0, 0]], 4.12, "CsCl")
    many = Crystals.concatenate([oxide, caesium])
    salts = Crystals.concatenate([retiled(rocksalt(), 3), caesium.with_ids(["again"])])
    found = find_known_prototypes(
        anonymous_cells(many), anonymous_cells(salts[:1]), amd_of(many), amd_of(salts[:1]), USUAL
    )
    assert found.tolist() == [0, -1]
    found = find_known_prototypes(
        anonymous_cells(many), anonymous_cells(salts), amd_of(many), amd_of(salts), USUAL
    )
    assert found.tolist() == [0, 1]


@pytest.mark.parametrize("amounts", [(1,), (1, 1, 3), (1, 2, 2, 2, 5), (2, 2, 3, 3)])
def test_permutations_keep_amounts_and_are_all(amounts):
    found = list(known._permutations(amounts))
    kinds = range(len(amounts))
    expected = [p for p in permutations(kinds) if tuple(amounts[k] for k in p) == amounts]
    assert sorted(found) == sorted(expected)


def test_many_permutations_are_tried_in_blocks(monkeypatch):
    names = [3, 11, 19, 37, 55]
    frac = np.random.default_rng(2).random((5, 3))
    crystal = one(names, frac.tolist(), 7.0, "a")
    other = one(names[::-1], frac.tolist(), 7.0, "b")
    one_cell, two_cell = anonymous_cells(crystal), anonymous_cells(other)
    for size in (720, 7):
        monkeypatch.setattr(known, "_PERMUTATIONS_AT_ONCE", size)
        found = find_known_prototypes(one_cell, two_cell, amd_of(crystal), amd_of(other), USUAL)
        assert found.tolist() == [0]


def test_candidates_are_all_pairs_of_equal_keys_whatever_the_parts(monkeypatch):
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 7, n).astype(np.uint64) for n in (40, 60))
    expected = {(i, j) for i in range(40) for j in range(60) if first[i] == second[j]}
    for size in (10**6, 25, 1):
        monkeypatch.setattr(candidates, "PAIRS_AT_ONCE", size)
        parts = list(parts_of_one_key(first, second))
        pairs = [tuple(p) for part in parts for p in part.tolist()]
        assert sorted(pairs) == sorted(expected)
        owners = [set(part[:, 0].tolist()) for part in parts]
        assert sum(map(len, owners)) == len(set().union(*owners))
    assert list(parts_of_one_key(first, np.array([99], dtype=np.uint64))) == []


def test_known_crystals_do_not_depend_on_parts_workers_and_order(real, monkeypatch):
    gen = perturbed(real, 0.1, 0.02)
    twice = Crystals.concatenate([real, perturbed(real, 0.05, 0.01, 3)])
    amd, known_amd = amd_of(gen), amd_of(twice)
    cells, known_cells = reduce_cells(gen), reduce_cells(twice)
    expected = find_known(cells, known_cells, amd, known_amd, USUAL, workers=1)
    assert (expected >= 0).mean() > 0.8
    monkeypatch.setattr(candidates, "PAIRS_AT_ONCE", 3)
    assert (find_known(cells, known_cells, amd, known_amd, USUAL, 2) == expected).all()
    order = np.random.default_rng(1).permutation(len(twice))
    mixed = find_known(cells, reduce_cells(twice[order]), amd, known_amd[order], USUAL)
    np.testing.assert_array_equal(np.append(order, -1)[mixed], expected)


def test_nearest_rows_equal_brute_force():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    first, second = rng.random((300, 6)).round(1), rng.random((400, 6)).round(1)
    first[7] = second[3] = np.nan
    for table in (second, None):
        index, distance = nearest_rows(first, table)
        # Rows that hold no numbers are as far away as can be.
        far = cdist(
            *(np.nan_to_num(t, nan=1e9) for t in (first, first if table is None else table)),
            "chebyshev",
        )
        if table is None:
            np.fill_diagonal(far, np.inf)
        good = np.arange(300) != 7
        np.testing.assert_array_equal(index[good], far.argmin(axis=1)[good])
        np.testing.assert_array_equal(distance[good], far.min(axis=1)[good])
        assert index[7] == -1
        assert np.isnan(distance[7])
    index, distance = nearest_rows(first[:1])
    assert index.tolist() == [-1]
    assert np.isnan(distance).all()


def test_tolerances_are_read_from_names_and_numbers():
    assert parse_tolerances("csp") == Tolerances(0.3, 0.5, 10.0, "csp")
    assert parse_tolerances("0.1, 0.2, 3") == Tolerances(0.1, 0.2, 3.0)
    for text in ("loose", "0.1,0.2", "0.1,0.2,0", "0.1,nan,3", "0.1,-1,3"):
        with pytest.raises(UserError, match="olerances"):
            parse_tolerances(text)


@pytest.mark.slow
@pytest.mark.skipif("CRYSMETRICS_DATA" not in os.environ, reason="names no folder of data")
def test_thousands_of_real_pairs_equal_pymatgen():
    data = Path(os.environ["CRYSMETRICS_DATA"])
    crystals = read(data / "mp20" / "test.csv.gz", workers=1)
    cells = reduce_cells(crystals)
    index = np.arange(len(crystals))
    pairs = pairs_of_one_key(cells.compositions, cells.compositions, index)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    for tolerances in TOLERANCES.values():
        found = matches(cells, cells, pairs, tolerances)
        expected = fits(crystals, crystals, pairs, tolerances).any(axis=1)
        np.testing.assert_array_equal(found, expected)
    some = crystals[::8]
    same = np.stack([np.arange(len(some))] * 2, axis=1)
    for noise in (0.1, 0.3, 0.5):
        noisy = perturbed(some, noise, 0.03)
        found = matches(reduce_cells(noisy), reduce_cells(some), same, USUAL)
        np.testing.assert_array_equal(found, fits(noisy, some, same, USUAL).any(axis=1))
