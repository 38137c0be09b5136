"""Means, covariances and random samples of rows that come in parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysmetrics.metrics.base import Value
from crysmetrics.metrics.gaussians import Statistics, streamed_frechet_value

Array = NDArray[np.float64]

SAMPLE = 20_000
"""Rows kept of a set that comes in parts, for what needs many of them at once."""


@dataclass(frozen=True)
class Moments:
    """Of n rows seen so far: their mean (d,) and a factor (k, d) with factorᵀ factor their
    scatter about it.

    Parts are united by a QR decomposition of their factors (Chan, Golub and LeVeque 1983 for the
    formula of the mean), so that small eigenvalues keep their digits.
    """

    count: int
    mean: Array
    factor: Array

    @classmethod
    def nothing(cls, width: int) -> Moments:
        """Make the moments of no rows."""
        return cls(0, np.zeros(width), np.zeros((0, width)))

    def with_rows(self, rows: Array) -> Moments:
        """Add (m, d) rows."""
        if not len(rows):
            return self
        rows = np.asarray(rows, dtype=np.float64)
        n, m = self.count, len(rows)
        mean = rows.mean(axis=0)
        shift = np.sqrt(n * m / (n + m)) * (mean - self.mean)
        stacked = np.concatenate([self.factor, rows - mean, shift[None]])
        if len(stacked) > stacked.shape[1]:
            stacked = np.asarray(np.linalg.qr(stacked, mode="r"))
        return Moments(n + m, self.mean + (mean - self.mean) * m / (n + m), stacked)

    def statistics(self) -> Statistics:
        """Compute mean and covariance of at least two rows."""
        return Statistics(self.mean, self.factor / np.sqrt(self.count - 1), self.count)


class Reservoir:
    """A random sample of rows: those with the smallest of random keys, whatever the parts."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._rows: Array | None = None
        self._keys: Array = np.zeros(0)

    def add(self, rows: Array, keys: Array) -> None:
        """Offer (m, d) rows with (m,) keys drawn uniformly."""
        known = len(self._keys)
        keys = np.concatenate([self._keys, keys])
        chosen = np.arange(len(keys))
        if len(keys) > self.size:
            chosen = np.sort(np.argpartition(keys, self.size)[: self.size])
        old, new = np.split(chosen, [np.searchsorted(chosen, known)])
        kept = np.empty((len(chosen), rows.shape[1]))
        if self._rows is not None:
            np.take(self._rows, old, axis=0, out=kept[: len(old)])
        np.take(rows, new - known, axis=0, out=kept[len(old) :])
        self._keys, self._rows = keys[chosen], kept

    @property
    def rows(self) -> Array:
        """The sample, in the order of arrival."""
        return np.zeros((0, 0)) if self._rows is None else self._rows


class RowSample:
    """A random sample of SAMPLE rows, or all where there are fewer."""

    def __init__(self) -> None:
        self._reservoir = Reservoir(SAMPLE)
        self._offered = 0

    def add(self, rows: Array, keys: Array) -> None:
        """Offer (m, d) rows with (m,) keys drawn uniformly."""
        self._offered += len(rows)
        self._reservoir.add(rows, keys)

    @property
    def rows(self) -> Array:
        """The sample, in the order of arrival."""
        return self._reservoir.rows

    def noted(self, value: Value) -> Value:
        """Add a note to a value computed from the sample, where rows were left out."""
        size = self._reservoir.size
        if self._offered <= size or value.value is None:
            return value
        return value.with_note(f"of a random sample of {size:,} generated structures")


class RowStream(RowSample):
    """Rows of features that come in parts: a random sample, and the moments of all of them."""

    def __init__(self) -> None:
        super().__init__()
        self._moments: Moments | None = None

    def add(self, rows: Array, keys: Array) -> None:
        """Take in (m, d) rows with (m,) keys drawn uniformly."""
        super().add(rows, keys)
        known = self._moments or Moments.nothing(rows.shape[1])
        self._moments = known.with_rows(rows)

    def frechet(self, theirs: Array, rng: np.random.Generator) -> Value:
        """Compute the Fréchet distance to (k, d) rows of the reference."""
        moments = self._moments or Moments.nothing(theirs.shape[1])
        return streamed_frechet_value(moments, self.rows, theirs, rng)
