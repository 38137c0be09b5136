"""Uniqueness: how many of the generated structures are not repetitions of each other."""

from __future__ import annotations

import numpy as np

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Measure, Metric, Outcome
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.settings import EvaluationSettings


def uniqueness(gen: Sample, settings: EvaluationSettings) -> Outcome:
    """Share of generated structures that are no duplicate of an earlier one.

    Duplicates match under pymatgen's `StructureMatcher`, with the tolerances of published match
    rates. Failures count as not unique. The share falls as a set grows: compare equal numbers.
    """
    from crysmetrics.matching.duplicates import group_duplicates

    crystals = gen.crystals
    labels = group_duplicates(crystals, workers=gen.run.workers)
    _, first = np.unique(labels, return_index=True)
    is_first = np.zeros(len(crystals), dtype=bool)
    is_first[first] = True
    # The earlier structure that each one repeats; its own id if it repeats none.
    leaders = np.array(crystals.ids, dtype=np.str_)[first][labels] if len(labels) else first
    total = crystals.num_total
    return Outcome(
        {"uniqueness": share(int(is_first.sum()), total, n_gen=total)},
        {"unique": is_first, "same_as": np.where(is_first, "", leaders)},
    )


MEASURE = Measure(
    "uniqueness",
    70,
    (
        Metric(
            "uniqueness",
            "Uniqueness",
            "share",
            "higher",
            "StructureMatcher of pymatgen (Ong et al. 2013)",
            biased=True,
            gated=True,
        ),
    ),
    uniqueness,
    roles=("gen",),
)
