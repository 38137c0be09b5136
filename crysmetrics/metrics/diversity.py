"""Diversity: how far the structures and compositions of a set lie from each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, Value, undefined
from crysmetrics.metrics.coverage import fingerprints
from crysmetrics.metrics.intervals import with_interval
from crysmetrics.metrics.moments import RowSample
from crysmetrics.metrics.neighbours import distance_sums
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.metrics.subset import draw_subset


def mean_pairwise_distance(points: NDArray[np.float64]) -> Value:
    """Average the Euclidean distances of all pairs of (n, d) rows, each pair once.

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


def diversity(gen: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the mean pairwise distance of structure and of composition fingerprints.

    They are CrystalNN's and normalised Magpie ones; structures without a fingerprint are left
    out. Validity settings decide what a `valid` subset is: CDVAE's tables have valid:1000.
    """
    chosen = draw_subset(gen, settings)
    values = {}
    for key, points in zip(("struct", "comp"), fingerprints(gen), strict=True):
        rows = points[chosen]
        values[f"{key}_diversity"] = mean_pairwise_distance(rows[np.isfinite(rows).all(axis=1)])
    return Outcome(values)


class DiversityParts:
    """Diversity over parts of the generated set, of a random sample where there are many."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self.samples = {"struct": RowSample(), "comp": RowSample()}

    def update(self, part: Part) -> Columns:
        """Take in the fingerprints of a part; no columns."""
        for sample, points in zip(self.samples.values(), fingerprints(part.sample), strict=True):
            finite = np.isfinite(points).all(axis=1)
            sample.add(points[finite], part.keys[finite])
        return {}

    def compute(self, total: int) -> Outcome:
        """Compute the mean distances within the samples."""
        return Outcome(
            {
                f"{kind}_diversity": sample.noted(mean_pairwise_distance(sample.rows))
                for kind, sample in self.samples.items()
            }
        )


_SOURCE = "Xie et al. 2021 (CDVAE), Appendix F"

MEASURE = Measure(
    "diversity",
    40,
    (
        Metric(
            "struct_diversity",
            "Structure diversity",
            "1",
            "higher",
            _SOURCE,
            definition="Mean distance between the CrystalNN fingerprints of all pairs of "
            "generated structures.",
        ),
        Metric(
            "comp_diversity",
            "Composition diversity",
            "1",
            "higher",
            _SOURCE,
            definition="Mean distance between the normalised Magpie features of all pairs of "
            "generated structures.",
        ),
    ),
    diversity,
    roles=("gen",),
    features=("crystalnn", "magpie"),
    settings=("subset", "seed"),
    accumulator=DiversityParts,
)
