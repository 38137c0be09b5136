"""How many structures have a property as good as the best of their data set (CDVAE)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, Value, undefined
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.metrics.validity import validity

PERCENTILES = {
    "mp20": (-3.1756, -2.8220, -2.5281),
    "carbon24": (-154.5271, -154.4587, -154.4421),
    "perov5": (0.4392, 0.6120, 0.7365),
}
"""The lowest 5, 10 and 15 % of each data set's property end here, in eV/atom (CDVAE's program)."""
SHARES = (5, 10, 15)

_NO_NETWORK = (
    "CDVAE's networks are each for one data set: name it by --thresholds mp20, perov5 or carbon24"
)


def success_rate(gen: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute how often a property is in the lowest 5, 10 and 15 % of the data set.

    The property is that of CDVAE's own network for the data set that the thresholds name, in
    eV/atom. Structures that can't be read or are not valid count as failures, as in its program.
    """
    columns = _columns(gen, settings)
    return Outcome(_values(_counts(columns), gen.crystals.num_total, settings), columns)


class SuccessRateParts:
    """Success rates over parts of the generated set."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self.settings = settings
        self.counts = np.zeros(len(SHARES), dtype=np.int64)

    def update(self, part: Part) -> Columns:
        """Count the successes of a part."""
        columns = _columns(part.sample, self.settings)
        self.counts += _counts(columns)
        return columns

    def compute(self, total: int) -> Outcome:
        """Compute the rates of all structures."""
        return Outcome(_values(self.counts, total, self.settings))


def _columns(gen: Sample, settings: EvaluationSettings) -> Columns:
    dataset = settings.thresholds.name
    if dataset is None:
        return {}
    energies = gen.features(f"cdvae_{dataset}").values[:, 0]
    checked = validity(gen, settings).per_structure
    valid = np.asarray(checked["struct_valid"] & checked["comp_valid"], dtype=bool)
    with np.errstate(invalid="ignore"):
        return {
            f"within_{percent}": valid & (energies <= limit)
            for percent, limit in zip(SHARES, PERCENTILES[dataset], strict=True)
        }


def _counts(columns: Columns) -> NDArray[np.int64]:
    if not columns:
        return np.zeros(len(SHARES), dtype=np.int64)
    return np.array([np.count_nonzero(column) for column in columns.values()], dtype=np.int64)


def _values(
    counts: NDArray[np.int64], total: int, settings: EvaluationSettings
) -> dict[str, Value]:
    if settings.thresholds.name is None:
        return {f"sr{percent}": undefined(_NO_NETWORK, total) for percent in SHARES}
    return {
        f"sr{percent}": share(int(count), total, n_gen=total)
        for percent, count in zip(SHARES, counts, strict=True)
    }


_SOURCE = "Xie et al. 2021 (CDVAE), Section 5.3 and Table 3"

MEASURE = Measure(
    "success_rate",
    27,
    tuple(
        Metric(
            f"sr{percent}",
            f"Success rate, lowest {percent} %",
            "share",
            "higher",
            _SOURCE,
            definition="Share of structures that are valid, and whose energy by CDVAE's own "
            f"network is within the lowest {percent} % of the data set.",
        )
        for percent in SHARES
    ),
    success_rate,
    roles=("gen",),
    features=("cdvae_mp20", "cdvae_perov5", "cdvae_carbon24"),
    settings=("thresholds", "min_distance", "min_volume", "oxidation_states"),
    accumulator=SuccessRateParts,
    on_request=True,
)
