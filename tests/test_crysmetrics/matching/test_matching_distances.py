"""The compiled matcher against pymatgen's own, pair by pair."""

import ast
import json
import os
import subprocess
import sys
import warnings
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sets import one, random_crystals, rocksalt

from crysmetrics import examples
from crysmetrics.io import Crystals, from_pymatgen, read
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.matching import _kernel as kernel
from crysmetrics.matching import _linear as linear
from crysmetrics.matching import cells as cells_module
from crysmetrics.matching import distances as distances_module
from crysmetrics.matching.cells import reduce_arrays, reduce_cells
from crysmetrics.matching.distances import permuted_distances, rms_distances

TOLERANCES = {"stol": 0.5, "angle_tol": 10, "ltol": 0.3}


def plain(first: Crystals, second: Crystals, pairs: np.ndarray, **tolerances: float) -> np.ndarray:
    """`get_rms_dist` of pymatgen for each pair, without its cache of reduced structures, which
    takes structures within 1e-5 Å of each other for the same."""
    from pymatgen.core.structure_matcher import StructureMatcher

    matcher = StructureMatcher(**{**TOLERANCES, **tolerances})
    a, b = first.to_pymatgen(), second.to_pymatgen()
    found = []
    for i, j in pairs.tolist():
        StructureMatcher._get_reduced_istructure.cache_clear()
        distance = matcher.get_rms_dist(a[i], b[j])
        found.append(np.nan if distance is None else distance[0])
    return np.array(found)


def assert_equal_pymatgen(first: Crystals, second: Crystals, pairs: object = None, **tol: float):
    index = np.stack([np.arange(len(first))] * 2, axis=1) if pairs is None else np.asarray(pairs)
    found = rms_distances(first, second, index, **tol)
    expected = plain(first, second, index, **tol)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)
    return found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Crystals:
    """Real structures of up to 24 atoms, small and symmetric ones among them."""
    _, reference = examples.unpack(tmp_path_factory.mktemp("examples"))
    crystals = read(reference, workers=1)
    return crystals[np.flatnonzero(crystals.num_atoms <= 24)[::3]]


def perturbed(crystals: Crystals, noise: float, strain: float, seed: int = 0) -> Crystals:
    rng = np.random.default_rng(seed)
    return Crystals(
        crystals.atomic_numbers,
        crystals.frac_coords + noise * rng.normal(size=crystals.frac_coords.shape),
        crystals.lattices @ (np.eye(3) + strain * rng.normal(size=crystals.lattices.shape)),
        crystals.num_atoms,
        [f"{name}-{seed}" for name in crystals.ids],
    )


def supercells(crystals: Crystals, matrix: list[list[int]]) -> Crystals:
    structures = []
    for structure in crystals.to_pymatgen():
        structure.make_supercell(matrix)
        structures.append(structure)
    return from_pymatgen(structures)


@pytest.mark.parametrize(
    ("noise", "strain"), [(0.0, 0.0), (0.005, 0.01), (0.03, 0.03), (0.08, 0.05), (0.0, 0.08)]
)
def test_distances_equal_pymatgen(real, noise, strain):
    found = assert_equal_pymatgen(perturbed(real, noise, strain), real)
    assert np.isfinite(found).mean() > 0.5


def test_poor_matches_equal_pymatgen(real):
    rng = np.random.default_rng(1)
    scattered = Crystals(
        real.atomic_numbers,
        rng.random(real.frac_coords.shape),
        real.lattices,
        real.num_atoms,
        [f"{name}-s" for name in real.ids],
    )
    found = assert_equal_pymatgen(scattered, real)
    assert 0 < np.isfinite(found).sum() < len(found)


def test_substituted_structures_equal_pymatgen(real):
    """Every structure as every other of its anonymous formula, elements swapped."""
    parts, targets = [], []
    for i, crystal in enumerate(real):
        for j in range(len(real)):
            if i == j:
                continue
            new = substituted(crystal, real[j])
            if new is not None:
                parts.append(new.with_ids([f"{i}-{j}"]))
                targets.append(j)
    chosen = np.random.default_rng(0).permutation(len(parts))[:80]
    first = Crystals.concatenate([parts[i] for i in chosen])
    pairs = np.stack([np.arange(len(chosen)), np.array(targets)[chosen]], axis=1)
    found = assert_equal_pymatgen(first, real, pairs)
    assert 0 < np.isfinite(found).sum() < len(found)


def substituted(crystal: Crystals, target: Crystals) -> Crystals | None:
    old, count = np.unique(crystal.atomic_numbers, return_counts=True)
    new, wanted = np.unique(target.atomic_numbers, return_counts=True)
    if sorted(count) != sorted(wanted):
        return None
    swap = dict(
        zip(
            old[np.argsort(count, kind="stable")].tolist(),
            new[np.argsort(wanted, kind="stable")].tolist(),
            strict=True,
        )
    )
    numbers = [swap[z] for z in crystal.atomic_numbers.tolist()]
    return Crystals(
        np.array(numbers), crystal.frac_coords, crystal.lattices, crystal.num_atoms, crystal.ids
    )


@pytest.mark.parametrize(
    "matrix", [[[2, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [-1, 1, 0], [3, 0, 1]]]
)
def test_supercells_equal_pymatgen(real, matrix):
    small = real[real.num_atoms <= 8][:12]
    large = supercells(small, matrix)
    found = assert_equal_pymatgen(large, small)
    assert (found < 1e-3).all()
    assert_equal_pymatgen(perturbed(large, 0.01, 0.02), small)


def test_other_tolerances_equal_pymatgen(real):
    noisy = perturbed(real, 0.05, 0.04)[:20]
    found = assert_equal_pymatgen(noisy, real[:20], stol=0.2, angle_tol=4, ltol=0.1)
    assert not np.isfinite(found).all()


def test_reduced_cells_equal_pymatgen(real):
    from pymatgen.core.structure_matcher import StructureMatcher

    small = real[real.num_atoms <= 10][:15]
    crystals = Crystals.concatenate(
        [
            supercells(small, [[2, 1, 0], [0, 1, 0], [0, 0, 2]]).with_ids(
                [f"{i}-l" for i in small.ids]
            ),
            perturbed(small, 0.02, 0.03, seed=5),
            random_crystals(15, seed=7),
        ]
    )
    found = reduce_cells(crystals)
    names = sorted(SYMBOLS)
    for i, structure in enumerate(crystals.to_pymatgen()):
        StructureMatcher._get_reduced_istructure.cache_clear()
        expected = StructureMatcher._get_reduced_structure(structure)
        rows = slice(found.offsets[i], found.offsets[i] + found.num_atoms[i])
        assert [names[k] for k in found.kinds[rows]] == [s.specie.symbol for s in expected]
        np.testing.assert_allclose(found.cells[i], expected.lattice.matrix, atol=1e-9)
        np.testing.assert_allclose(found.frac_coords[rows], expected.frac_coords, atol=1e-9)


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_the_same_crystal_written_otherwise_matches(seed):
    rng = np.random.default_rng(seed)
    crystal = random_crystals(1, seed=seed, atoms=(1, 6))
    change = np.eye(3, dtype=int)
    for _ in range(3):
        i, j = rng.choice(3, 2, replace=False)
        change[i] += int(rng.integers(-2, 3)) * change[j]
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(crystal.num_atoms[0])
    frac = (crystal.frac_coords + rng.random(3))[order] @ np.linalg.inv(change)
    cell = 1.3 * change @ crystal.lattices[0] @ turn  # volumes are scaled to each other
    other = one(crystal.atomic_numbers[order].tolist(), frac.tolist(), cell)
    assert rms_distances(crystal, other, [(0, 0)])[0] < 1e-5


def test_assignment_equals_scipy_among_equals():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 8, 13):
        for _ in range(30):
            cost = rng.integers(0, 4, (n, n)).astype(float)
            cost[rng.random((n, n)) < 0.1] = kernel.FAR
            marks = np.zeros((6, n), dtype=np.int64)
            kernel._assign(cost, n, np.zeros((3, n)), marks)
            assert marks[0].tolist() == linear_sum_assignment(cost)[1].tolist()


@pytest.mark.parametrize("primitive", [True, False])
@pytest.mark.parametrize("tolerances", [TOLERANCES, {"stol": 0.3, "angle_tol": 5, "ltol": 0.2}])
def test_permuted_species_equal_pymatgen_on_renamed_crystals(real, primitive, tolerances):
    """All permutations of up to three species of pairs of one anonymous formula."""
    from pymatgen.core.structure_matcher import StructureMatcher

    matcher = StructureMatcher(**tolerances, primitive_cell=primitive)
    crystals = Crystals.concatenate([real, perturbed(real, 0.02, 0.03)])
    species = [np.unique(c.atomic_numbers, return_inverse=True)[1] for c in crystals]
    counts = [tuple(np.bincount(s).tolist()) for s in species]
    pairs = [
        (i, j)
        for i in range(len(crystals))
        for j in range(len(crystals))
        if sorted(counts[i]) == sorted(counts[j]) and len(counts[i]) in (2, 3)
    ]
    rng = np.random.default_rng(0)
    pairs = [pairs[k] for k in rng.permutation(len(pairs))[:50]]
    cells = reduce_arrays(
        crystals.lattices,
        crystals.frac_coords,
        np.concatenate(species),
        crystals.num_atoms,
        primitive=primitive,
    )
    structures = crystals.to_pymatgen()
    matched = 0
    for i, j in pairs:
        cases = np.array(list(permutations(range(len(counts[i])))))
        found = permuted_distances(cells, cells, [(i, j)], cases, **tolerances)[0]
        some = permuted_distances(cells, cells, [(i, j)], cases, any_mapping=True, **tolerances)
        np.testing.assert_array_equal(np.isfinite(some[0]), np.isfinite(found))
        assert (np.nan_to_num(some[0] - found) >= 0).all()
        # The first elements of the alphabet stand for species, as numbers do.
        names = sorted(SYMBOLS[1:])
        goal = structures[j].copy()
        goal = type(goal)(goal.lattice, [names[s] for s in species[j]], goal.frac_coords)
        for case, value in zip(cases, found, strict=True):
            renamed = type(goal)(
                structures[i].lattice,
                [names[case[s]] for s in species[i]],
                structures[i].frac_coords,
            )
            StructureMatcher._get_reduced_istructure.cache_clear()
            expected = matcher.get_rms_dist(renamed, goal)
            assert np.isfinite(value) == (expected is not None)
            if expected is not None:
                assert value == pytest.approx(expected[0], abs=1e-8)
                matched += 1
    assert matched > 10


def test_different_compositions_never_match():
    salt = rocksalt()
    oxide = one([3, 8], [[0, 0, 0], [0.5, 0.5, 0.5]], salt.lattices[0])
    swapped = one([17, 11], salt.frac_coords.tolist(), salt.lattices[0])
    assert np.isnan(rms_distances(oxide, salt, [(0, 0)])[0])
    assert rms_distances(swapped, salt, [(0, 0)])[0] < 1e-6


def test_a_conventional_cell_is_the_primitive_crystal():
    a = 5.64
    corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    centres = [[0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    conventional = one([11] * 4 + [17] * 4, corners + centres, a, "conventional")
    assert reduce_cells(conventional).num_atoms.tolist() == [2]
    assert rms_distances(conventional, rocksalt(a), [(0, 0)])[0] < 1e-6


def test_cells_that_are_none_never_match():
    good = rocksalt()
    flat = one([11, 17], good.frac_coords.tolist(), [[4, 0, 0], [0, 4, 0], [4, 4, 0]])
    needle = one([11, 17], good.frac_coords.tolist(), [[1e-3, 0, 0], [0, 1e-3, 0], [0, 0, 1e5]])
    wild = one([11, 17], good.frac_coords.tolist(), [[4, 0, 0], [4e6, 4, 0], [3e7, 5e6, 4]])
    for bad in (flat, needle, wild):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isnan(rms_distances(bad, good, [(0, 0)])[0])
            assert np.isnan(rms_distances(good, bad, [(0, 0)])[0])


def test_no_pairs_and_no_structures():
    assert rms_distances(rocksalt(), rocksalt(), []).shape == (0,)
    assert rms_distances(Crystals.empty(), rocksalt(), []).shape == (0,)


def test_workers_and_batches_do_not_change_anything(real, monkeypatch):
    noisy = perturbed(real, 0.03, 0.03)
    pairs = np.array([(i, j) for i in range(len(real)) for j in range(len(real))])
    expected = rms_distances(noisy, real, pairs, workers=1)
    monkeypatch.setattr(distances_module, "_PAIRS_AT_ONCE", 7)
    monkeypatch.setattr(distances_module, "_MAPPINGS_A_PAIR", 1)  # buffers grow
    monkeypatch.setattr(cells_module, "_REDUCED_AT_ONCE", 20)
    np.testing.assert_array_equal(rms_distances(noisy, real, pairs, workers=3), expected)
    given = rms_distances(reduce_cells(noisy), reduce_cells(real), pairs, workers=2)
    np.testing.assert_array_equal(given, expected)


@pytest.mark.slow
def test_distances_equal_pymatgen_on_mp20():
    data = read(Path(os.environ["CRYSMETRICS_DATA"]) / "mp20" / "val.csv.gz")[::8]
    for noise, strain in ((0.0, 0.0), (0.02, 0.02), (0.07, 0.05)):
        assert_equal_pymatgen(perturbed(data, noise, strain), data)


def test_multiplication_and_addition_rounded_once_without_compilation():
    """What runs where nothing is compiled yet: the last bits are the same."""
    code = (
        "import json, sys\n"
        "import numpy as np\n"
        "from crysmetrics.features._numeric import _fma\n"
        "x = np.array(json.load(sys.stdin))\n"
        "print(repr([float(_fma(*row)) for row in x]))\n"
    )
    x = np.random.default_rng(0).normal(size=(600, 3))
    x[:200, 2] = -x[:200, 0] * x[:200, 1]  # all that is left is what the product has lost
    x[100:200, 2] *= 1 + 1e-15
    x[200:250, 0] *= 1e150
    x[250:300, :2] *= 1e-150  # the product is no normal number
    x[300:350, :2] *= 1e150
    x[350:400, 0] *= 1e305
    x[400:420, 0] = x[410:430, 2] = 0
    environment = dict(os.environ, NUMBA_DISABLE_JIT="1")
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        input=json.dumps(x.tolist()),
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    matrix = np.zeros((3, 3))
    expected = []
    for a, b, c in x.tolist():
        # fma(z, m2, fma(y, m1, x * m0)) with x * m0 = c, m1 = b and z = 0 is fma(a, b, c).
        matrix[:, 0] = 1.0, b, 0.0
        out = np.zeros((1, 3))
        linear.times(np.array([[c, a, 0.0]]), 0, 1, matrix, out)
        expected.append(out[0, 0])
    np.testing.assert_array_equal(ast.literal_eval(done.stdout), expected)
