"""Noise on the torus against the exact wrapped normal distribution."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from crysgen.diffusion.schedules import POSITION_BETAS, STEPS, Exploding, linear_betas
from crysgen.diffusion.torus import (
    fourier_coefficient,
    remove_mean,
    shortest_path,
    wrap,
    wrapped_normal_cdf,
)

PAPER = Exploding(linear_betas(STEPS, *POSITION_BETAS))


def noisy(start, sigma, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return wrap(start + sigma * torch.randn(start.shape, generator=generator, dtype=start.dtype))


def test_wrap():
    points = torch.tensor(
        [-1e-17, -0.25, 0.0, 0.5, 1.0, 7.75, -3.0, 1 - 1e-16], dtype=torch.float64
    )
    found = wrap(points)
    assert ((found >= 0) & (found < 1)).all()
    torch.testing.assert_close(
        found, torch.tensor([0, 0.75, 0, 0.5, 0, 0.75, 0, 1 - 1e-16], dtype=torch.float64)
    )
    assert (wrap(torch.tensor([-1e-9])) < 1).all()


def test_shortest_path_is_the_shortest_of_all():
    start, end = torch.rand(2, 200, 3, dtype=torch.float64) * 5 - 2
    path = shortest_path(start, end)
    assert path.abs().max() <= 0.5
    torch.testing.assert_close(wrap(start + path - end + 0.5), torch.full_like(path, 0.5))
    images = torch.cartesian_prod(*[torch.arange(-6.0, 7, dtype=torch.float64)] * 3)
    lengths = ((end - start)[:, None] + images).norm(dim=-1).min(1).values
    torch.testing.assert_close(path.norm(dim=-1), lengths)


@pytest.mark.parametrize("t", [1, 5, 20, 50, 75, 100])
def test_positions_follow_the_wrapped_normal(t):
    """Kolmogorov-Smirnov, before the mean is removed, with the paper's schedule."""
    sigma = PAPER.sigma(torch.tensor(t)).item()
    start = torch.rand(1000, 10, 3, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
    path = shortest_path(start, noisy(start, sigma, seed=t)).flatten()

    def cdf(x):
        return wrapped_normal_cdf(torch.as_tensor(x), sigma).numpy()

    assert stats.kstest(path.numpy(), cdf).pvalue > 0.01
    # The test would see a spread that is off by a tenth.
    wrong = shortest_path(start, noisy(start, 1.1 * sigma, seed=t)).flatten()
    assert stats.kstest(wrong.numpy(), cdf).pvalue < 0.01


def test_the_chain_of_single_steps_ends_in_the_same_distribution():
    """Eq. 16: what transitions of variance β_t make is what `sigma` says."""
    betas = linear_betas(STEPS, *POSITION_BETAS)
    generator = torch.Generator().manual_seed(3)
    x = torch.zeros(20000, dtype=torch.float64)
    for beta in betas[1:]:
        x = wrap(x + beta.sqrt() * torch.randn(x.shape, generator=generator, dtype=x.dtype))
    sigma = PAPER.sigma(torch.tensor(STEPS)).item()
    path = shortest_path(torch.zeros_like(x), x)
    test = stats.kstest(path, lambda v: wrapped_normal_cdf(torch.as_tensor(v), sigma).numpy())
    assert test.pvalue > 0.01


def test_the_cdf_is_that_of_a_density_on_the_torus():
    for sigma in (0.01, 0.1, 0.31, 1.0):
        x = torch.linspace(-0.5, 0.5, 2001, dtype=torch.float64)
        cdf = wrapped_normal_cdf(x, sigma)
        assert cdf[0].abs() < 1e-12
        assert (cdf[-1] - 1).abs() < 1e-12
        assert (cdf.diff() >= -1e-15).all()
        assert cdf[1000].item() == pytest.approx(0.5)


def test_the_last_step_is_not_quite_uniform():
    """Table 1 ends at σ_T = 0.316: the first Fourier coefficient is 0.14 rather than 0."""
    sigma = PAPER.sigma(torch.tensor(STEPS))
    assert sigma.item() == pytest.approx(0.3163, abs=1e-4)
    coefficient = fourier_coefficient(sigma).item()
    assert coefficient == pytest.approx(0.139, abs=1e-3)
    start = torch.zeros(200000, dtype=torch.float64)
    path = shortest_path(start, noisy(start, sigma.item()))
    measured = torch.cos(2 * math.pi * path).mean().item()
    assert measured == pytest.approx(coefficient, abs=4 / math.sqrt(2 * 200000))
    # The density is 1 + 2 c cos 2πx to four digits: 28 % too high at the start, as much too low
    # half a cell away, and the largest distance between the two distributions c/π.
    assert fourier_coefficient(sigma, order=2).item() < 4e-4
    x = torch.linspace(-0.5, 0.5, 1001, dtype=torch.float64)
    distance = (wrapped_normal_cdf(x, sigma.item()) - (x + 0.5)).abs().max().item()
    assert distance == pytest.approx(coefficient / math.pi, abs=1e-3)
    # A schedule twice as wide is uniform for all that 9,046 crystals could tell.
    assert fourier_coefficient(2 * sigma).item() < 4e-4


def test_a_wide_normal_is_uniform():
    start = torch.rand(20000, dtype=torch.float64)
    assert stats.kstest(noisy(start * 0, 2.0), "uniform").pvalue > 0.01


def test_remove_mean():
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    vectors = torch.randn(3, 3, 3, dtype=torch.float64)
    found = remove_mean(vectors, mask)
    torch.testing.assert_close(found.sum(1), torch.zeros(3, 3, dtype=torch.float64))
    assert (found[~mask] == 0).all()
    torch.testing.assert_close(found[0], vectors[0] - vectors[0].mean(0))
    again = remove_mean(found, mask)
    np.testing.assert_allclose(again, found, atol=1e-15)
