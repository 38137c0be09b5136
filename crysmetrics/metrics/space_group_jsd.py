"""How far the distributions of space groups of two sets lie apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import (
    Columns,
    Measure,
    Metric,
    Outcome,
    Part,
    Value,
    random_generator,
    undefined,
)
from crysmetrics.metrics.intervals import Z95
from crysmetrics.metrics.settings import EvaluationSettings

SPACE_GROUPS = 230
REPEATS = 200
"""Random draws for the standard error, and for the distance of equal distributions."""

Counts = NDArray[np.int64]


def space_group_jsd(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the Jensen-Shannon distance of the distributions of space groups, in [0, 1].

    The square root of the Jensen-Shannon divergence with logarithms to base 2, of space groups
    found within 0.1 Å; structures of which none is found are left out. It is biased upwards at
    small samples, the more so the more groups there are: compare equal numbers, and see the note,
    which says how far two samples of one distribution would lie apart.
    """
    ours, theirs = _groups(gen), _groups(ref)
    rng = random_generator(settings, "space_group_jsd")
    return Outcome(
        {"space_group_jsd": jsd_value(_counts(ours), _counts(theirs), rng)},
        {"space_group": ours},
        {"space_group": theirs},
    )


class SpaceGroupParts:
    """The distance of space groups over parts of the generated set."""

    def __init__(self, ref: Sample, settings: EvaluationSettings) -> None:
        self.ref, self.settings = ref, settings
        self.counts = np.zeros(SPACE_GROUPS, dtype=np.int64)

    def update(self, part: Part) -> Columns:
        """Count the space groups of a part."""
        groups = _groups(part.sample)
        self.counts += _counts(groups)
        return {"space_group": groups}

    def compute(self, total: int) -> Outcome:
        """Compute the distance of all parts."""
        theirs = _groups(self.ref)
        rng = random_generator(self.settings, "space_group_jsd")
        value = jsd_value(self.counts, _counts(theirs), rng)
        return Outcome({"space_group_jsd": value}, {}, {"space_group": theirs})


def jsd(a: Counts, b: Counts) -> NDArray[np.float64]:
    """Compute the Jensen-Shannon distance to base 2 of (..., k) counts of two samples."""
    p, q = (counts / counts.sum(axis=-1, keepdims=True) for counts in (a, b))
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    distance: NDArray[np.float64] = np.sqrt(np.clip(divergence, 0, 1))
    return distance


def _relative_entropy(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kullback-Leibler divergence in bits; q is positive wherever p is."""
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    found: NDArray[np.float64] = (p * np.log2(ratio)).sum(axis=-1)
    return found


def jsd_value(gen: Counts, ref: Counts, rng: np.random.Generator) -> Value:
    """Compute the Jensen-Shannon distance of two samples with its standard error.

    The error comes from half-samples of both, as that of all distances between samples (see
    `intervals.subsampled_stderr`), here drawn as counts.

    Args:
        gen, ref: (k,) numbers of structures of each kind.
        rng: source of the draws.
    """
    n, m = int(gen.sum()), int(ref.sum())
    if not n or not m:
        return undefined("no structure has a space group", n, m)
    value = float(jsd(gen, ref))
    if min(n, m) < 4:
        return Value(value, None, None, n, m)
    halves = [
        rng.multivariate_hypergeometric(counts, size // 2, size=REPEATS)
        for counts, size in ((gen, n), (ref, m))
    ]
    stderr = float(np.std(jsd(halves[0], halves[1]), ddof=1))
    interval = (max(0.0, value - Z95 * stderr), min(1.0, value + Z95 * stderr))
    both = gen + ref
    shuffled = rng.multivariate_hypergeometric(both, n, size=REPEATS)
    by_chance = float(np.mean(jsd(shuffled, both - shuffled)))
    return Value(value, stderr, interval, n, m).with_note(
        f"two samples of one distribution, of these sizes, are about {by_chance:.3f} apart"
    )


def _groups(sample: Sample) -> NDArray[np.int64]:
    """(B,) space group numbers, 0 where none is found."""
    return np.nan_to_num(sample.features("space_group").values[:, 0], nan=0).astype(np.int64)


def _counts(groups: NDArray[np.int64]) -> Counts:
    """(230,) numbers of structures of each space group; those without one are left out."""
    return np.bincount(groups[groups > 0] - 1, minlength=SPACE_GROUPS)


MEASURE = Measure(
    "space_group_jsd",
    74,
    (
        Metric(
            "space_group_jsd",
            "Distance of space groups",
            "1",
            "lower",
            "Lin 1991 (IEEE Trans. Inf. Theory 37, 145), with moyo's space groups",
            biased=True,
            gated=True,
            definition="Jensen-Shannon distance (base 2) between the frequencies of space "
            "groups in both sets, from 0 to 1.",
        ),
    ),
    space_group_jsd,
    roles=("gen", "ref"),
    features=("space_group",),
    settings=("seed",),
    accumulator=SpaceGroupParts,
)
