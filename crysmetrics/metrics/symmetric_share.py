"""How many structures have any symmetry beside the translations of their lattice."""

from __future__ import annotations

import numpy as np

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, Value
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.settings import EvaluationSettings

_FEATURES = {"symmetric": "space_group", "symmetric_tight": "space_group_tight"}
"""Column -> the space groups it is read from, within 0.1 Å and within 0.01 Å."""


def symmetric_share(gen: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the share of structures above P1, the space group without any symmetry.

    Space groups are found within 0.1 Å, and for `symmetric_share_tight` within 0.01 Å: models
    that only come near symmetry have the first and lack the second. Structures that can't be
    read, or of which no space group is found, count as not symmetric.
    """
    columns = _columns(gen)
    return Outcome(_values(_counts(columns), gen.crystals.num_total), columns)


class SymmetricShareParts:
    """The share of symmetric structures over parts of the generated set."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self.counts = dict.fromkeys(_FEATURES, 0)

    def update(self, part: Part) -> Columns:
        """Count the symmetric structures of a part."""
        columns = _columns(part.sample)
        for name, count in _counts(columns).items():
            self.counts[name] += count
        return columns

    def compute(self, total: int) -> Outcome:
        """Compute the shares of all structures."""
        return Outcome(_values(self.counts, total))


def _columns(gen: Sample) -> Columns:
    # NaN, where no group is found, is not above 1 either.
    return {name: gen.features(kind).values[:, 0] > 1 for name, kind in _FEATURES.items()}


def _counts(columns: Columns) -> dict[str, int]:
    return {name: int(np.count_nonzero(column)) for name, column in columns.items()}


def _values(counts: dict[str, int], total: int) -> dict[str, Value]:
    return {
        "symmetric_share": share(counts["symmetric"], total, n_gen=total),
        "symmetric_share_tight": share(counts["symmetric_tight"], total, n_gen=total),
    }


_SOURCE = "Space groups by moyo"

MEASURE = Measure(
    "symmetric_share",
    72,
    (
        Metric(
            "symmetric_share",
            "Symmetric within 0.1 Å",
            "share",
            "higher",
            _SOURCE,
            definition="Share of structures whose space group within 0.1 Å is higher than P1.",
        ),
        Metric(
            *("symmetric_share_tight", "Symmetric within 0.01 Å", "share", "higher", _SOURCE),
            gated=True,
            definition="Share of structures whose space group within 0.01 Å is higher than P1.",
        ),
    ),
    symmetric_share,
    roles=("gen",),
    features=("space_group", "space_group_tight"),
    accumulator=SymmetricShareParts,
)
