import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import one, random_crystals, rocksalt

import crysmetrics
from crysmetrics.errors import UserError
from crysmetrics.geometry import min_distances, pair_distances, reduce_cell
from crysmetrics.io import Crystals, Failure
from crysmetrics.io.elements import ATOMIC_NUMBERS
from crysmetrics.metrics.oxidation import OXIDATION_STATE_SETS, oxidation_data, valid_compositions


def brute_force_distance(crystal: Crystals, reach: int) -> float:
    shifts = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    best = np.inf
    for i, a in enumerate(crystal.frac_coords):
        for j, b in enumerate(crystal.frac_coords):
            lengths = np.linalg.norm((a - b + shifts) @ crystal.lattices[0], axis=1)
            if i == j:
                lengths = lengths[np.any(shifts != 0, axis=1)]
            best = min(best, lengths.min())
    return best


def test_shortest_distance_equals_brute_force():
    crystals = random_crystals(60, seed=1, atoms=(1, 5))
    found = min_distances(crystals)
    for i, crystal in enumerate(crystals):
        assert found[i] == pytest.approx(brute_force_distance(crystal, 4), abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_shortest_distance_does_not_depend_on_the_cell_chosen(seed):
    rng = np.random.default_rng(seed)
    crystal = random_crystals(1, seed=seed)
    change = np.eye(3, dtype=int)
    for _ in range(6):  # skewed by far more than a 3x3x3 search of images could see
        i, j = rng.choice(3, 2, replace=False)
        change[i] += int(rng.integers(-4, 5)) * change[j]
    frac = crystal.frac_coords @ np.linalg.inv(change)
    skewed = Crystals(
        crystal.atomic_numbers, frac, (change @ crystal.lattices[0])[None], crystal.num_atoms, ["s"]
    )
    assert min_distances(skewed)[0] == pytest.approx(min_distances(crystal)[0], rel=1e-6)


@pytest.mark.parametrize(
    "cell",
    [
        np.zeros((3, 3)),
        [[4, 0, 0], [4, 0, 0], [0, 0, 5]],
        [[4, 0, 0], [0.3, 0, 0], [0, 5, 0]],
        [[1, 2, 3], [3, 1, 2], [4, 3, 5]],
        [[0, 0, 0], [3, 0, 0], [0, 3, 0]],
    ],
)
def test_a_cell_without_volume_keeps_nothing_apart(cell):
    assert min_distances(one([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], cell))[0] < 1e-6


def test_reduced_cell_spans_the_same_lattice():
    rng = np.random.default_rng(3)
    for _ in range(50):
        cell = rng.normal(size=(3, 3)) @ np.array([[1, 0, 0], [7, 1, 0], [-9, 5, 1]])
        change = reduce_cell(cell) @ np.linalg.inv(cell)
        assert np.abs(change - np.round(change)).max() < 1e-6
        assert abs(np.linalg.det(np.round(change))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("crystal", "valid"),
    [
        (rocksalt(), True),
        (one([11, 17], [[0, 0, 0], [0.001, 0, 0]], 5.0), False),  # on top of each other
        (one([11, 17], [[0, 0, 0], [0.99, 0, 0]], 5.0), False),  # the same, across the border
        (one([11], [[0, 0, 0]], 0.4), False),  # its own image is too near
        (one([11], [[0, 0, 0]], [[5, 0, 0], [0, 5, 0], [4.9, 0, 0.3]]), False),
        (one([11], [[0, 0, 0]], 0.6), True),
    ],
)
def test_structural_validity(crystal, valid):
    report = crysmetrics.validity(crystal)
    assert report["struct_validity"] == float(valid)


def test_distance_must_be_larger_and_volume_large_enough():
    touching = one([11, 17], [[0, 0, 0], [0, 0, 0.125]], 4.0)
    assert crysmetrics.validity(touching)["struct_validity"] == 0
    assert crysmetrics.validity(touching, min_distance=0.49)["struct_validity"] == 1
    assert crysmetrics.validity(rocksalt(), min_volume=1e3)["struct_validity"] == 0


def test_failures_count_as_invalid():
    crystals = rocksalt().with_failures([Failure("bad.cif", "is empty")] * 3)
    report = crysmetrics.validity(crystals)
    for key in ("struct_validity", "comp_validity", "validity"):
        assert report[key] == 0.25
        assert report.metrics[key].n_gen == 4
    assert [f["file"] for f in report.failures] == ["bad.cif"] * 3


def random_compositions(count: int) -> list[dict[str, int]]:
    rng = np.random.default_rng(0)
    symbols = [s for s, z in ATOMIC_NUMBERS.items() if z <= 103 and s not in "DT"]
    found = []
    for _ in range(count):
        chosen = rng.choice(symbols, rng.integers(1, 6), replace=False)
        found.append({str(s): int(rng.integers(1, 9)) for s in chosen})
    return found


@pytest.mark.parametrize("name", OXIDATION_STATE_SETS)
def test_composition_validity_equals_smact(name):
    from pymatgen.core import Composition
    from smact.screening import smact_validity

    compositions = random_compositions(400)
    counts = np.zeros((len(compositions), 119), dtype=int)
    for row, composition in zip(counts, compositions, strict=True):
        for symbol, n in composition.items():
            row[ATOMIC_NUMBERS[symbol]] = n
    found = valid_compositions(counts, name)
    chosen = None if name == "icsd24-filtered" else name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [
            smact_validity(Composition(c), oxidation_states_set=chosen) for c in compositions
        ]
    assert found.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_elements_unknown_to_smact_are_no_error():
    for numbers in ([118, 8], [2, 8], [94, 8], [86, 10]):
        crystal = one(numbers, [[0, 0, 0], [0.5, 0.5, 0.5]], 4.0)
        assert crysmetrics.validity(crystal)["comp_validity"] in (0.0, 1.0)
    assert crysmetrics.validity(one([118], [[0, 0, 0]], 4.0))["comp_validity"] == 1.0


def test_unknown_oxidation_states_are_refused():
    with pytest.raises(UserError, match="smact14"):
        crysmetrics.validity(rocksalt(), oxidation_states="nonsense")
    assert 1 in oxidation_data("smact14").states[ATOMIC_NUMBERS["Na"]]


def test_pymatgen_structures_do_as_well():
    report = crysmetrics.validity([*rocksalt().to_pymatgen(), "not a structure"])
    assert report["struct_validity"] == 0.5
    assert report.failures[0]["reason"] == "is a str, not a periodic structure"


def test_pair_distances_are_shortest_in_cells_of_any_shape():
    rng = np.random.default_rng(0)
    for _ in range(20):
        cell = rng.normal(0, 3, (3, 3))
        frac = rng.random((4, 3))
        plain = pair_distances(cell, frac)
        # The same crystal in a cell sheared by many lattice vectors.
        shear = np.eye(3) + np.array([[0, 5, -7], [0, 0, 4], [0, 0, 0]])
        skewed = pair_distances(shear @ cell, frac @ np.linalg.inv(shear))
        np.testing.assert_allclose(skewed, plain, atol=1e-7)
        crystal = one([1] * 4, frac.tolist(), cell)
        assert plain.min() == pytest.approx(min_distances(crystal)[0], abs=1e-9)
        images = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), -1).reshape(-1, 3)
        vectors = (frac[0] - frac[1] + images) @ cell
        assert plain[0, 1] <= np.linalg.norm(vectors, axis=1).min() + 1e-9
