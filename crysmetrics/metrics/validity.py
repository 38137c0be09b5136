"""Validity of structures and of compositions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, Value
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.oxidation import valid_compositions
from crysmetrics.metrics.settings import EvaluationSettings

CDVAE = "Xie et al. 2021 (CDVAE), Section 5.2"


def valid_structures(
    crystals: Crystals, settings: EvaluationSettings, workers: int | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Find valid structures: (B,) whether distances and volume suffice, (B,) distances in Å.

    The rule of Court et al. 2020, as used by CDVAE and GemsDiff (Table 2), but over all periodic
    images, an atom's own included. The distances returned are the shortest ones.
    """
    distances = min_distances(crystals, workers)
    return (distances > settings.min_distance) & (
        crystals.volumes >= settings.min_volume
    ), distances


def validity(gen: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the share of valid structures.

    Structures: all distances above the minimum, over all periodic images, and a volume of at
    least 0.1 Å³. Compositions: charge neutral by SMACT with the Pauling test. Structures that
    can't be read count as invalid.
    """
    columns = _columns(gen, settings)
    return Outcome(_values(_counts(columns), gen.crystals.num_total), columns)


class ValidityParts:
    """Validity over parts of the generated set."""

    def __init__(self, settings: EvaluationSettings) -> None:
        self.settings = settings
        self.counts = np.zeros(3, dtype=np.int64)

    def update(self, part: Part) -> Columns:
        """Count the valid structures of a part."""
        columns = _columns(part.sample, self.settings)
        self.counts += _counts(columns)
        return columns

    def compute(self, total: int) -> Outcome:
        """Compute the shares of all structures."""
        return Outcome(_values(self.counts, total))


def _columns(gen: Sample, settings: EvaluationSettings) -> Columns:
    crystals = gen.crystals
    structure, distances = valid_structures(crystals, settings, gen.run.workers)
    return {
        "struct_valid": structure,
        "comp_valid": valid_compositions(crystals.element_counts, settings.oxidation_states),
        "min_distance": distances,
        "volume": crystals.volumes,
    }


def _counts(columns: Columns) -> NDArray[np.int64]:
    """Count the numbers of valid structures, of valid compositions, and of both."""
    structure, composition = columns["struct_valid"], columns["comp_valid"]
    return np.array([structure.sum(), composition.sum(), (structure & composition).sum()])


def _values(counts: NDArray[np.int64], total: int) -> dict[str, Value]:
    keys = ("struct_validity", "comp_validity", "validity")
    return {
        key: share(count, total, n_gen=total)
        for key, count in zip(keys, counts.tolist(), strict=True)
    }


MEASURE = Measure(
    "validity",
    10,
    (
        Metric(
            "struct_validity",
            "Structural validity",
            "share",
            "higher",
            CDVAE,
            gated=True,
            definition="Share of structures in which every distance between atoms, images "
            "included, is above 0.5 Å, and whose cell holds at least 0.1 Å³.",
        ),
        Metric(
            "comp_validity",
            "Composition validity",
            "share",
            "higher",
            CDVAE,
            gated=True,
            definition="Share of structures whose elements have oxidation states that add up "
            "to zero (SMACT, with the Pauling test); alloys and elements count as "
            "valid.",
        ),
        Metric(
            "validity",
            "Validity (both)",
            "share",
            "higher",
            CDVAE,
            definition="Share of structures that are valid in both ways: distances and "
            "charge balance.",
        ),
    ),
    validity,
    roles=("gen",),
    settings=("min_distance", "min_volume", "oxidation_states"),
    accumulator=ValidityParts,
)
