"""An unbiased distance of feature distributions by a polynomial kernel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crysmetrics.metrics.base import Value, undefined
from crysmetrics.metrics.intervals import Z95

Array = NDArray[np.float64]

_BLOCK_BYTES = 128 * 1024**2


def kernel_distance(gen: Array, ref: Array) -> Value:
    """Estimate the squared maximum mean discrepancy by k(x, y) = (x·y/d + 1)³, unbiased.

    The kernel Inception distance of Bińkowski et al. 2018 on other features; all pairs enter,
    not a few subsets. Unbiased, so that equal distributions scatter around 0, also below it.
    The variance is that of the U-statistic: its first-order terms, and those of second order,
    which are all that is left when the distributions agree.

    Args:
        gen: (n, d) features.
        ref: (m, d) features.
    """
    n, m = len(gen), len(ref)
    if min(n, m) < 2:
        return undefined("a kernel distance needs at least two structures of each set", n, m)
    xx, yy, xy = _Sums(gen, gen), _Sums(ref, ref), _Sums(gen, ref)
    inner_x = (xx.rows - xx.diagonal) / (n - 1)
    inner_y = (yy.rows - yy.diagonal) / (m - 1)
    cross_x, cross_y = xy.rows / m, xy.columns / n
    value = float(inner_x.mean() + inner_y.mean() - 2 * cross_x.mean())
    rest_xx = _residual((xx.squares - (xx.diagonal**2).sum()) / (n * (n - 1)), inner_x, inner_x)
    rest_yy = _residual((yy.squares - (yy.diagonal**2).sum()) / (m * (m - 1)), inner_y, inner_y)
    rest_xy = _residual(xy.squares / (n * m), cross_x, cross_y)
    # The spread of estimated projections holds the noise of their own estimation as well.
    spread_x = np.var(inner_x - cross_x) - rest_xx / (n - 1) - rest_xy / m
    spread_y = np.var(inner_y - cross_y) - rest_yy / (m - 1) - rest_xy / n
    variance = 4 * max(0.0, spread_x) / n + 4 * max(0.0, spread_y) / m
    variance += 2 * rest_xx / (n * (n - 1)) + 2 * rest_yy / (m * (m - 1)) + 4 * rest_xy / (n * m)
    stderr = float(np.sqrt(variance))
    return Value(value, stderr, (value - Z95 * stderr, value + Z95 * stderr), n, m)


def _residual(mean_square: float, a: Array, b: Array) -> float:
    """Compute the mean square of a kernel from which the means over each argument are taken."""
    rest = mean_square - (a**2).mean() - (b**2).mean() + a.mean() * b.mean()
    return max(0.0, float(rest))


class _Sums:
    """Sums of a kernel matrix along its rows and columns, of its squares, and its diagonal."""

    def __init__(self, a: Array, b: Array) -> None:
        self.rows, self.columns = np.zeros(len(a)), np.zeros(len(b))
        self.squares = 0.0
        for part in _blocks(len(a), len(b)):
            block = a[part] @ b.T
            block /= a.shape[1]
            block += 1
            block **= 3
            self.rows[part] = block.sum(axis=1)
            self.columns += block.sum(axis=0)
            self.squares += float(np.einsum("ij,ij->", block, block))
        if a is b:
            self.diagonal = (np.einsum("ij,ij->i", a, a) / a.shape[1] + 1) ** 3


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    height = max(1, _BLOCK_BYTES // (8 * columns))
    for start in range(0, rows, height):
        yield slice(start, min(rows, start + height))
