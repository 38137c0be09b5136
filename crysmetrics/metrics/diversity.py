"""Diversity: how far the structures and compositions of a set lie from each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Measure, Metric, Outcome, Settings, Value, undefined
from crysmetrics.metrics.coverage import fingerprints
from crysmetrics.metrics.intervals import with_interval
from crysmetrics.metrics.neighbours import distance_sums
from crysmetrics.metrics.subset import draw_subset


def mean_pairwise_distance(points: NDArray[np.float64]) -> Value:
    """Mean Euclidean distance of all pairs of rows (n, d), each pair once.

    Its standard error is that of a U-statistic of two arguments: 2 sd(h) / √n, with h the mean
    distance of one structure to all others (Hoeffding 1948).

    Args:
        points: finite rows.
    """
    n = len(points)
    if n < 2:
        return undefined("a pair needs two structures", n)
    to_others = distance_sums(points) / (n - 1)
    stderr = 2 * float(np.std(to_others)) / np.sqrt(n)
    return with_interval(float(to_others.mean()), stderr, n, None)


def diversity(gen: Sample, ref: Sample | None, settings: Settings) -> Outcome:
    """Mean pairwise distances of CrystalNN and normalised Magpie fingerprints.

    CDVAE takes 1,000 valid structures (`subset="valid:1000"`). Structures without a
    fingerprint are left out.
    """
    chosen = draw_subset(gen, settings)
    values = {}
    for key, points in zip(("struct", "comp"), fingerprints(gen), strict=True):
        rows = points[chosen]
        values[f"{key}_diversity"] = mean_pairwise_distance(rows[np.isfinite(rows).all(axis=1)])
    return Outcome(values)


_SOURCE = "Xie et al. 2021 (CDVAE), Appendix F"

MEASURE = Measure(
    "diversity",
    (
        Metric("struct_diversity", "Structure diversity", "1", "higher", _SOURCE),
        Metric("comp_diversity", "Composition diversity", "1", "higher", _SOURCE),
    ),
    diversity,
    needs_reference=False,
    settings=("subset", "seed"),
)
