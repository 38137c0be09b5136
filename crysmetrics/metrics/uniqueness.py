"""Uniqueness: how many of the generated structures are not repetitions of each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome
from crysmetrics.metrics.intervals import Z95, mean, share
from crysmetrics.metrics.sameness import (
    AMD,
    MATCHER,
    groups,
    ids_at,
    incomparable,
    nearest_other,
)
from crysmetrics.metrics.settings import EvaluationSettings

_SIZES = 25
"""Points of the curve against the number of structures."""


def uniqueness(gen: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the share of distinct crystals, and the mean distance to the nearest other.

    Structures that match under pymatgen's StructureMatcher, in either order, within --tolerances
    are grouped around representatives no two of which match: uniqueness is the number of groups
    divided by that of structures, whatever their order. Structures that can't be read or compared
    count as not unique. uniqueness_amd is continuous: the largest difference of average minimum
    distances (AMD, in Å) from the nearest other structure, whatever the elements; 0 for copies.
    Both fall as a set grows: compare equal numbers.
    """
    labels, total = groups(gen, settings.tolerances), gen.crystals.num_total
    _, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    first = np.flatnonzero(labels >= 0)[first]
    unique = np.zeros(len(gen), dtype=bool)
    unique[first] = True
    same_as = np.where(unique | (labels < 0), -1, np.append(first, -1)[labels])
    nearest = nearest_other(gen)
    known = np.isfinite(nearest.distances)
    found = share(len(sizes), total, n_gen=total)
    note = of_fewer(sizes, total)
    return Outcome(
        {
            "uniqueness": found.with_note(note) if note else found,
            "uniqueness_amd": mean(nearest.distances[known], int(known.sum())),
        },
        {
            "unique": unique,
            "same_as": ids_at(gen.crystals, same_as),
            "amd_to_other": nearest.distances,
            "nearest_other": ids_at(gen.crystals, nearest.rows),
        },
        series={"uniqueness_by_size": by_size(sizes, total)},
        failures=tuple(incomparable(gen)),
    )


def of_fewer(sizes: NDArray[np.int64], total: int) -> str:
    """Say what uniqueness is to be expected of 10, 100, ... of the structures, if there are copies.

    Args:
        sizes: of the groups.
        total: structures, with those that are in no group.
    """
    if sizes.max(initial=1) == 1:
        return ""
    curve = by_size(sizes, total, 10 ** np.arange(1, 1 + int(np.log10(max(total - 1, 1)))))
    pairs = zip(curve["structures"].tolist(), curve["uniqueness"].tolist(), strict=True)
    parts = ", ".join(f"{share:.4f} of {number:,}" for number, share in pairs)
    return f"of fewer of these structures one expects {parts}" if parts else ""


def by_size(
    sizes: NDArray[np.int64], total: int, numbers: NDArray[np.int64] | None = None
) -> Columns:
    """Compute the uniqueness to be expected of fewer structures, from the sizes of groups.

    Exact, without drawing any (Hurlbert, Ecology 52, 577 (1971)): a group of s among n structures
    is missing from m of them with probability C(n - s, m) / C(n, m). The variance is that over
    draws of m among the n, divided by 1 - m/n for those that were generated only once, as in
    `intervals.subsampled_stderr`.

    Args:
        sizes: of the groups.
        total: structures, with those that are in no group.
        numbers: of structures, below `total`; 25 of them by default.

    Returns:
        `structures`, `uniqueness`, `low` and `high` of a 95 % interval, for each of these numbers.
    """
    if numbers is None:
        numbers = np.unique(np.geomspace(1, max(total - 1, 1), _SIZES).astype(int))
        numbers = numbers[numbers < total]
    kinds, times = np.unique(sizes, return_counts=True)
    both = kinds[:, None] + kinds[None]
    found, errors = np.empty(len(numbers)), np.empty(len(numbers))
    for k, m in enumerate(numbers.tolist()):
        missing, neither = _missing(kinds, m, total), _missing(both, m, total)
        found[k] = min(times @ (1 - missing) / m, 1.0)
        pairs = times @ (neither - np.outer(missing, missing)) @ times
        # A group with itself is not two groups.
        own = times @ (missing - np.diag(neither))
        errors[k] = np.sqrt(max(pairs + own, 0.0) / (1 - m / total)) / m
    return {
        "structures": numbers,
        "uniqueness": found,
        "low": np.clip(found - Z95 * errors, 0, 1),
        "high": np.clip(found + Z95 * errors, 0, 1),
    }


def _missing(sizes: NDArray[np.int64], m: int, total: int) -> NDArray[np.float64]:
    """Compute the probability that none of so many structures is among `m` of `total`."""
    rest = total - sizes
    logarithm = gammaln(np.maximum(rest, m) + 1.0) - gammaln(np.maximum(rest - m, 0) + 1.0)
    logarithm += gammaln(total - m + 1.0) - gammaln(total + 1.0)
    found: NDArray[np.float64] = np.where(rest >= m, np.exp(logarithm), 0.0)
    return found


MEASURE = Measure(
    "uniqueness",
    70,
    (
        Metric(
            "uniqueness",
            "Uniqueness",
            "share",
            "higher",
            MATCHER,
            biased=True,
            gated=True,
            definition="Number of distinct crystals divided by the number of structures; it "
            "falls as a set grows.",
        ),
        Metric(
            *("uniqueness_amd", "AMD distance to the nearest other", "Å", "higher", AMD),
            biased=True,
            definition="Mean distance of a structure to its nearest other one, between "
            "average minimum distances (AMD); 0 for copies.",
        ),
    ),
    uniqueness,
    roles=("gen",),
    features=("amd",),
    settings=("tolerances",),
)
