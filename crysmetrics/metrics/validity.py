"""Validity of structures and of compositions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.geometry import min_distances
from crysmetrics.io import Crystals
from crysmetrics.metrics.base import Measure, Metric, Outcome, Settings
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.oxidation import valid_compositions

CDVAE = "Xie et al. 2021 (CDVAE), Section 5.2"


def valid_structures(
    crystals: Crystals, settings: Settings, workers: int | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(B,) which crystals keep all distances above the minimum and enough volume, and (B,) the
    shortest distances in Å.

    Court et al. 2020, as used by CDVAE and GemsDiff (Table 2), but over all periodic images,
    an atom's own included.
    """
    distances = min_distances(crystals, workers)
    return (distances > settings.min_distance) & (
        crystals.volumes >= settings.min_volume
    ), distances


def validity(gen: Sample, ref: Sample | None, settings: Settings) -> Outcome:
    """Shares of generated structures that are valid; failures count as invalid."""
    crystals = gen.crystals
    structure, distances = valid_structures(crystals, settings, gen.run.workers)
    composition = valid_compositions(crystals.element_counts, settings.oxidation_states)
    total = crystals.num_total
    shares = {
        "struct_validity": structure,
        "comp_validity": composition,
        "validity": structure & composition,
    }
    values = {k: share(int(v.sum()), total, n_gen=total) for k, v in shares.items()}
    columns = {
        "struct_valid": structure,
        "comp_valid": composition,
        "min_distance": distances,
        "volume": crystals.volumes,
    }
    return Outcome(values, columns)


MEASURE = Measure(
    "validity",
    (
        Metric("struct_validity", "Structural validity", "share", "higher", CDVAE, gated=True),
        Metric("comp_validity", "Composition validity", "share", "higher", CDVAE, gated=True),
        Metric("validity", "Validity (both)", "share", "higher", CDVAE),
    ),
    validity,
    needs_reference=False,
    settings=("min_distance", "min_volume", "oxidation_states"),
)
