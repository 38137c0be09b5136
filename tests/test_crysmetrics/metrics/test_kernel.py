import numpy as np
import pytest

from crysmetrics.metrics import extrapolation, kernel
from crysmetrics.metrics.extrapolation import frechet_infinity, sample_sizes
from crysmetrics.metrics.gaussians import Statistics, frechet_distance
from crysmetrics.metrics.kernel import kernel_distance


def test_kernel_distance_by_its_definition(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(20, 4)) + 0.3
    xx, yy, xy = ((a @ b.T / 4 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    expected = (xx.sum() - np.trace(xx)) / 870 + (yy.sum() - np.trace(yy)) / 380 - 2 * xy.mean()
    assert kernel_distance(x, y).value == pytest.approx(expected)
    monkeypatch.setattr(kernel, "_BLOCK_BYTES", 8 * 20 * 3)
    assert kernel_distance(x, y).value == pytest.approx(expected)
    assert kernel_distance(x[:1], y).value is None


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_kernel_distance_is_unbiased_and_its_interval_has_its_coverage(shift):
    rng = np.random.default_rng(1)
    big = rng.normal(size=(2, 8_000, 2))
    truth = kernel_distance(big[0] + shift, big[1]).value if shift else 0.0
    found = [
        kernel_distance(rng.normal(size=(120, 2)) + shift, rng.normal(size=(150, 2)))
        for _ in range(200)
    ]
    values = np.array([v.value for v in found])
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / np.sqrt(200) + 0.02)
    hits = [v.ci95[0] <= truth <= v.ci95[1] for v in found]
    assert np.mean(hits) >= 0.88
    assert np.mean([v.stderr for v in found]) == pytest.approx(values.std(), rel=0.35)


def test_sizes_of_the_extrapolation():
    assert sample_sizes(7118)[[0, -1]].tolist() == [500, 7118]
    assert sample_sizes(400)[[0, -1]].tolist() == [40, 400]
    assert len(sample_sizes(7118)) == extrapolation.NUM_SIZES


def test_extrapolation_takes_out_the_bias_of_small_samples():
    rng = np.random.default_rng(0)
    ref, gen = rng.normal(size=(20_000, 30)), rng.normal(size=(1000, 30)) + 0.2
    truth = 30 * 0.2**2
    plain = frechet_distance(Statistics.of(gen), Statistics.of(ref))
    value = frechet_infinity(gen, ref, rng)
    assert abs(value.value - truth) < 0.5 * abs(plain - truth)
    assert value.ci95[0] <= value.value <= value.ci95[1]
    assert frechet_infinity(gen[:20], ref, rng).value is None
