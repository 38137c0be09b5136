import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crysmetrics.metrics.diversity import mean_pairwise_distance
from crysmetrics.metrics.emd import emd_value
from crysmetrics.metrics.gaussians import frechet_value
from crysmetrics.metrics.intervals import mean, share, subsampled_stderr


def contains(value, truth) -> bool:
    return value.ci95[0] <= truth <= value.ci95[1]


@given(st.integers(1, 10_000), st.data())
def test_interval_of_a_share_contains_it(total, data):
    hits = data.draw(st.integers(0, total))
    found = share(hits, total)
    assert 0 <= found.ci95[0] <= found.value <= found.ci95[1] <= 1
    assert found.ci95[0] < found.ci95[1]


@pytest.mark.parametrize("truth", [0.02, 0.5, 0.99])
def test_interval_of_a_share_has_its_coverage(truth):
    rng = np.random.default_rng(0)
    hits = [contains(share(int(n), 300), truth) for n in rng.binomial(300, truth, 2000)]
    assert 0.93 <= np.mean(hits) <= 0.985


def test_interval_of_a_mean_has_its_coverage():
    rng = np.random.default_rng(0)
    hits = [contains(mean(rng.exponential(2.0, 400)), 2.0) for _ in range(1000)]
    assert 0.925 <= np.mean(hits) <= 0.975
    assert share(0, 0).value is None
    assert mean(np.zeros(0)).reason


def test_subsamples_give_the_standard_error_of_a_difference_of_means():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=400), rng.normal(size=900)
    found = subsampled_stderr(lambda i, j: a[i].mean() - b[j].mean(), 400, 900, rng, 2000)
    assert found == pytest.approx(np.sqrt(1 / 400 + 1 / 900), rel=0.1)
    assert subsampled_stderr(lambda i, j: 0.0, 3, 100, rng) is None


def test_interval_of_an_emd_has_its_coverage():
    # Two exponentials: the quantile functions differ by a factor, so W1 is the difference 1 of
    # the means, and the estimate is nearly unbiased.
    rng = np.random.default_rng(0)
    found = [emd_value(rng.exponential(3, 300), rng.exponential(2, 400), rng) for _ in range(200)]
    hits = [contains(value, 1.0) for value in found]
    assert 0.9 <= np.mean(hits) <= 0.99
    assert all(contains(value, value.value) for value in found)


def test_interval_of_a_frechet_distance_has_its_coverage():
    # Far apart, the distance of the means dominates and the bias of covariances is small.
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(120):
        gen, ref = rng.normal(size=(400, 3)), rng.normal(size=(500, 3)) + np.array([2, 0, 0])
        value = frechet_value(gen, ref, rng)
        assert contains(value, value.value)
        hits.append(contains(value, 4.0))
    assert 0.89 <= np.mean(hits) <= 1.0


def test_interval_of_a_pairwise_mean_has_its_coverage():
    rng = np.random.default_rng(0)
    truth = 2 / np.sqrt(np.pi)  # E|x - y| of two standard normals
    hits = [contains(mean_pairwise_distance(rng.normal(size=(200, 1))), truth) for _ in range(400)]
    assert 0.92 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize("same", [True, False])
def test_intervals_of_distances_contain_the_value(same):
    rng = np.random.default_rng(1)
    gen = rng.normal(size=(80, 4))
    ref = gen if same else rng.normal(size=(90, 4)) + 0.3
    for value in (emd_value(gen[:, 0], ref[:, 0], rng), frechet_value(gen, ref, rng)):
        assert contains(value, value.value)
        if same:
            assert value.value == pytest.approx(0, abs=1e-12)
