"""Standard errors and 95 % intervals.

The percentile bootstrap of both sets is biased for distances between samples: resamples hold
duplicates, which lie nearer to each other than the data do, and the interval can miss the value
itself. So shares and means use their own per-structure terms with the other set held fixed, and
distances between samples use subsamples drawn without replacement.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from crysmetrics.metrics.base import Value, undefined
from crysmetrics.parallel import in_threads

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution."""


def share(hits: int, total: int, n_gen: int | None = None, n_ref: int | None = None) -> Value:
    """Compute a share of structures with Wilson's score interval.

    Wilson's interval keeps its coverage near 0 and 1, where validity and coverage live and
    where resampling the terms would give an interval of no width.
    """
    if total == 0:
        return undefined("there are no structures to count", n_gen, n_ref)
    p = hits / total
    centre = (p + Z95**2 / (2 * total)) / (1 + Z95**2 / total)
    half = Z95 * sqrt(p * (1 - p) / total + Z95**2 / (4 * total**2)) / (1 + Z95**2 / total)
    # At 0 and 1 rounding would leave the value itself outside by 1e-17.
    interval = (min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))
    return Value(p, sqrt(p * (1 - p) / total), interval, n_gen, n_ref)


def mean(terms: NDArray[np.float64], n_gen: int | None = None, n_ref: int | None = None) -> Value:
    """Average per-structure terms that are not negative, with ± 1.96 standard errors.

    The standard error is that of resampling the terms without end, which has a closed form.
    """
    if len(terms) == 0:
        return undefined("no structure has this distance", n_gen, n_ref)
    value = float(np.mean(terms))
    stderr = float(np.std(terms) / sqrt(len(terms)))
    return with_interval(value, stderr, n_gen, n_ref)


def with_interval(
    value: float, stderr: float | None, n_gen: int | None, n_ref: int | None
) -> Value:
    """Add the interval ± 1.96 standard errors, cut at 0: nothing here is negative."""
    if stderr is None:
        return Value(value, None, None, n_gen, n_ref)
    low = min(value, max(0.0, value - Z95 * stderr))
    return Value(value, stderr, (low, value + Z95 * stderr), n_gen, n_ref)


def subsampled_stderr(
    statistic: Callable[[NDArray[np.intp], NDArray[np.intp]], float],
    n_gen: int,
    n_ref: int,
    rng: np.random.Generator,
    repeats: int = 200,
) -> float | None:
    """Estimate the standard error of a distance between two samples from half-samples.

    For an estimator whose variance falls as 1/n, halves drawn without replacement scatter
    around the full value just as the full value scatters around the truth: the variance of a
    subsample of share f is (1 - f)/f times that of the whole, and f = 1/2 (Politis, Romano and
    Wolf, "Subsampling", 1999; Shao and Wu 1989 for the delete-d jackknife).

    Args:
        statistic: takes indices of generated and of reference structures.
        n_gen, n_ref: sizes; with fewer than 4 in either there is no standard error (None).
        rng: source of the draws.
        repeats: number of subsamples.
    """
    if min(n_gen, n_ref) < 4:
        return None
    # Drawn one after the other, and only when needed: all at once take 0.8 kB a structure.
    draws = (
        (
            rng.choice(n_gen, n_gen // 2, replace=False),
            rng.choice(n_ref, n_ref // 2, replace=False),
        )
        for _ in range(repeats)
    )
    # Small matrices gain more from one core each than from sharing all cores.
    with threadpool_limits(1, user_api="blas"):
        values = list(in_threads(statistic, draws))
    return float(np.std(values, ddof=1))
