"""Fréchet distances without the bias of finite samples, by extrapolation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from crysmetrics.metrics.base import Value, undefined
from crysmetrics.metrics.gaussians import Statistics, frechet_distance
from crysmetrics.metrics.intervals import with_interval
from crysmetrics.parallel import in_threads

Array = NDArray[np.float64]

NUM_SIZES = 10
REPEATS = 5
LARGEST_START = 500


def sample_sizes(n: int) -> NDArray[np.int64]:
    """Choose ten sizes evenly spaced in 1/n, from 500 (n/10 where n < 1,000) to n."""
    start = LARGEST_START if n >= 2 * LARGEST_START else max(2, n // 10)
    return np.unique(np.round(1 / np.linspace(1 / n, 1 / start, NUM_SIZES)).astype(int))


def distances_by_size(
    gen: Array, ref: Statistics, sizes: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], Array]:
    """Compute Fréchet distances (k,) of random subsamples of `gen`, and their sizes (k,)."""
    draws = [
        (np.sort(rng.choice(len(gen), size, replace=False)),)
        for size in sizes
        for _ in range(1 if size == len(gen) else REPEATS)
    ]

    def distance(chosen: NDArray[np.intp]) -> float:
        return frechet_distance(Statistics.of(gen[chosen], fast=True), ref)

    with threadpool_limits(1, user_api="blas"):
        found = list(in_threads(distance, draws))
    return np.array([len(chosen) for (chosen,) in draws]), np.array(found)


def frechet_infinity(gen: Array, ref: Array, rng: np.random.Generator) -> Value:
    """Return the value that `extrapolate` finds."""
    return extrapolate(gen, ref, rng)[0]


def extrapolate(
    gen: Array, ref: Array, rng: np.random.Generator
) -> tuple[Value, NDArray[np.int64], Array]:
    """Extrapolate the Fréchet distance to infinitely many generated structures.

    The bias of the distance falls as 1/n (Chong and Forsyth, "Effectively unbiased FID", 2020):
    a line through its values at several sizes, at 1/n = 0. The standard error is that of the
    line's intercept; the reference is taken as it is.

    Args:
        gen: (n, d) features, subsampled.
        ref: (m, d) features, all of them.

    Returns:
        The value, and the sizes and distances that the line goes through.
    """
    n, m = len(gen), len(ref)
    if n < 50 or m < 2:
        reason = "an extrapolation needs at least 50 generated structures"
        return undefined(reason, n, m), np.zeros(0, dtype=np.int64), np.zeros(0)
    sizes, distances = distances_by_size(gen, Statistics.of(ref), sample_sizes(n), rng)
    (_, intercept), covariance = np.polyfit(1 / sizes, distances, 1, cov=True)
    value = with_interval(float(intercept), float(np.sqrt(covariance[1, 1])), n, m)
    return value, sizes, distances
