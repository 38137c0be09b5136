import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import pdist
from sets import random_crystals

import crysmetrics
from crysmetrics.metrics.diversity import mean_pairwise_distance
from crysmetrics.metrics.gaussians import Statistics, frechet_distance, frechet_value


def test_equals_the_matrix_square_root_where_that_is_stable():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(300, 12)) @ rng.normal(size=(12, 12))
    b = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * root)
    assert frechet_distance(Statistics.of(a), Statistics.of(b)) == pytest.approx(expected)


def test_gaussians_of_known_distance():
    # Diagonal covariances commute: the distance is that of means and of standard deviations.
    rng = np.random.default_rng(0)
    scale_a, scale_b, shift = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 1.0]), 0.5
    a = rng.normal(size=(400_000, 3)) * scale_a
    b = rng.normal(size=(400_000, 3)) * scale_b + shift
    expected = 3 * shift**2 + ((scale_a - scale_b) ** 2).sum()
    found = frechet_distance(Statistics.of(a), Statistics.of(b))
    assert found == pytest.approx(expected, rel=0.01)


def test_singular_covariances_stay_real_and_exact():
    rng = np.random.default_rng(0)
    few = rng.normal(size=(5, 256))
    assert frechet_distance(Statistics.of(few), Statistics.of(few)) < 1e-12
    line = np.outer(np.arange(10.0), np.ones(256))
    moved = line + 3.0
    found = frechet_distance(Statistics.of(line), Statistics.of(moved))
    assert found == pytest.approx(256 * 9)


def test_fewer_structures_than_features_is_said():
    rng = np.random.default_rng(0)
    value = frechet_value(rng.normal(size=(20, 61)), rng.normal(size=(500, 61)), rng)
    assert "singular" in value.note
    assert frechet_value(rng.normal(size=(100, 9)), rng.normal(size=(100, 9)), rng).note is None
    alone = frechet_value(rng.normal(size=(1, 61)), rng.normal(size=(500, 61)), rng)
    assert alone.value is None
    assert alone.reason


def test_grows_with_noise():
    rng = np.random.default_rng(0)
    ref = random_crystals(150, 1)
    found = []
    for noise in (0.0, 0.03, 0.3):
        moved = type(ref)(
            ref.atomic_numbers,
            ref.frac_coords + noise * rng.normal(size=ref.frac_coords.shape),
            ref.lattices,
            ref.num_atoms,
            ref.ids,
        )
        found.append(crysmetrics.frechet(moved, ref, cache="off")["fd_crystalnn"])
    assert found[0] < 1e-9 < found[1] < found[2]


def test_diversity_is_the_mean_pairwise_distance():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(60, 61))
    assert mean_pairwise_distance(points).value == pytest.approx(pdist(points).mean())
    assert mean_pairwise_distance(points[:1]).value is None
    report = crysmetrics.diversity(random_crystals(8), cache="off")
    assert report["struct_diversity"] > 0
    assert report["comp_diversity"] > 0
    same = random_crystals(1).to_pymatgen() * 4
    assert crysmetrics.diversity(same, cache="off")["struct_diversity"] == 0
