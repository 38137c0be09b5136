"""Coverage: recall and precision of a set of crystals against a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.magpie_scaling import normalise
from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, Value
from crysmetrics.metrics.intervals import mean, share
from crysmetrics.metrics.neighbours import Nearest, nearest_both_ways
from crysmetrics.metrics.settings import EvaluationSettings, Thresholds
from crysmetrics.spill import Columns as ColumnsOnDisk

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]


def fingerprints(sample: Sample) -> tuple[Array, Array]:
    """Compute (B, 61) structure and (B, 132) composition fingerprints; rows of NaN failed."""
    crystalnn, magpie = sample.features("crystalnn"), sample.features("magpie")
    composition = normalise(magpie.values)
    # Normalisation turns a missing element property into 0, but a failed row stays failed.
    composition[~magpie.ok] = np.nan
    structure = crystalnn.values.copy()
    structure[~crystalnn.ok] = np.nan
    return structure, composition


def coverage(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute COV-R, COV-P, AMSD and AMCD by both definitions.

    `cov_recall` is Eq. 10 of the CDVAE paper: one generated crystal must be within both
    thresholds. `cov_recall_marginal` is what CDVAE's released script computes and published
    tables hold: the nearest structure and the nearest composition may be different crystals.
    Generated structures that failed stay in the denominator of precision; reference structures
    that failed, in reading or in a fingerprint, are left out.
    """
    limits = settings.thresholds
    theirs = fingerprints(ref)
    precision, recall = nearest_both_ways(
        fingerprints(gen), theirs, limits.structure, limits.composition
    )
    n_ref = num_measured(theirs)
    values = coverage_values(precision, recall, limits, gen.crystals.num_total, n_ref)
    return Outcome(
        values,
        distance_columns(precision, ref.crystals.ids),
        distance_columns(recall, gen.crystals.ids),
    )


def num_measured(points: tuple[Array, Array]) -> int:
    """Count the structures that have both fingerprints."""
    structure, composition = (np.isfinite(part).all(axis=1) for part in points)
    return int((structure & composition).sum())


def coverage_values(
    precision: Nearest, recall: Nearest, limits: Thresholds, n_gen: int, n_ref: int
) -> dict[str, Value]:
    """Compute the metrics from what is nearest to each structure.

    Args:
        precision, recall: of all generated structures that were read, and of all references.
        limits: thresholds.
        n_gen: generated structures, with those that could not be read.
        n_ref: references that have both fingerprints.
    """
    n_read = len(precision.structure)
    values = {}
    for side, near, total in (("recall", recall, n_ref), ("precision", precision, n_gen)):
        joint = near.structure_within <= limits.structure
        marginal = (near.structure <= limits.structure) & (near.composition <= limits.composition)
        values[f"cov_{side}"] = share(int(joint.sum()), total, n_gen, n_ref)
        values[f"cov_{side}_marginal"] = share(int(marginal.sum()), total, n_gen, n_ref)
        for key, distances in (("amsd", near.structure), ("amcd", near.composition)):
            terms = distances[np.isfinite(distances)]
            used = (n_read, len(terms)) if side == "recall" else (len(terms), n_ref)
            values[f"{key}_{side}"] = mean(terms, *used)
    return values


class CoverageParts:
    """Coverage over parts of the generated set; distances of every structure wait on disk."""

    def __init__(self, ref: Sample, settings: EvaluationSettings) -> None:
        self.ref, self.limits = ref, settings.thresholds
        self.near = ColumnsOnDisk()
        self.recall = Nearest.nothing(len(ref))

    def update(self, part: Part) -> Columns:
        """Find what is nearest to the structures of a part, and nearer to references."""
        precision, recall = nearest_both_ways(
            fingerprints(part.sample),
            fingerprints(self.ref),
            self.limits.structure,
            self.limits.composition,
        )
        for column in fields(precision):
            self.near.add(column.name, getattr(precision, column.name))
        self.recall = self.recall.nearer(recall, part.start)
        return distance_columns(precision, self.ref.crystals.ids)

    def compute(self, total: int) -> Outcome:
        """Compute the metrics of all parts."""
        precision = Nearest(*(self.near[column.name] for column in fields(Nearest)))
        n_ref = num_measured(fingerprints(self.ref))
        return Outcome(
            coverage_values(precision, self.recall, self.limits, total, n_ref),
            distance_columns(precision),
            distance_columns(self.recall),
        )


def distance_columns(near: Nearest, others: Sequence[str] | None = None) -> Columns:
    """Name the distances of each structure as columns of a table.

    Args:
        near: what is nearest to each.
        others: the ids that `near.index` points to; without them they are left out.
    """
    ids = np.array([*(others or ()), ""], dtype=np.str_)
    return {
        **({} if others is None else {"nearest_id": ids[near.index]}),
        "nearest_structure_distance": near.structure,
        "nearest_composition_distance": near.composition,
        "structure_distance_within_composition": near.structure_within,
        "composition_distance_within_structure": near.composition_within,
    }


def sweep(
    outcome: Outcome,
    settings: EvaluationSettings,
    n_gen: int,
    n_ref: int,
    structure: Sequence[float] | None = None,
    composition: Sequence[float] | None = None,
) -> pd.DataFrame:
    """Compute COV-R and COV-P while one threshold varies (CDVAE, Figures 6 to 8).

    Args:
        outcome: of `coverage`.
        settings: those it was computed with.
        n_gen, n_ref: denominators.
        structure, composition: thresholds to try; by default 51 from 0 to 2.5 times the one set.

    Returns:
        Columns `varied`, `structure_threshold`, `composition_threshold`, and the four shares.
    """
    import pandas as pd

    limits = settings.thresholds
    steps = np.linspace(0, 2.5, 51)
    grids = {
        "structure": steps * limits.structure if structure is None else np.asarray(structure),
        "composition": (
            steps * limits.composition if composition is None else np.asarray(composition)
        ),
    }
    sides = (("recall", outcome.per_reference, n_ref), ("precision", outcome.per_structure, n_gen))
    rows = []
    for varied, other in (("structure", "composition"), ("composition", "structure")):
        fixed = getattr(limits, other)
        for threshold in grids[varied]:
            row = {
                "varied": varied,
                f"{varied}_threshold": float(threshold),
                f"{other}_threshold": fixed,
            }
            for side, columns, total in sides:
                joint = columns[f"{varied}_distance_within_{other}"] <= threshold
                marginal = (columns[f"nearest_{varied}_distance"] <= threshold) & (
                    columns[f"nearest_{other}_distance"] <= fixed
                )
                row[f"cov_{side}"] = float(joint.sum()) / total
                row[f"cov_{side}_marginal"] = float(marginal.sum()) / total
            rows.append(row)
    names = ["varied", "structure_threshold", "composition_threshold"]
    return pd.DataFrame(rows)[[*names, *(c for c in rows[0] if c.startswith("cov_"))]]


_PAPER = "Xie et al. 2021 (CDVAE), Eq. 10"
_SCRIPT = "CDVAE's released evaluation script"
_APPENDIX = "Xie et al. 2021 (CDVAE), Appendix G"

# The more structures are generated, the nearer the nearest one to a reference lies: recall depends
# on their number, precision does not.
_METRICS = (
    Metric(
        "cov_recall",
        "COV-R",
        "share",
        "higher",
        _PAPER,
        biased=True,
        gated=True,
        definition="Share of reference crystals that have a generated crystal within "
        "both thresholds, of structure and of composition.",
    ),
    Metric(
        "cov_precision",
        "COV-P",
        "share",
        "higher",
        _PAPER,
        gated=True,
        definition="Share of generated crystals that have a reference crystal within "
        "both thresholds, of structure and of composition.",
    ),
    Metric(
        "cov_recall_marginal",
        "COV-R as published",
        "share",
        "higher",
        _SCRIPT,
        biased=True,
        definition="COV-R by CDVAE's script, as in all published tables: the nearest "
        "structure and the nearest composition may be two different crystals.",
    ),
    Metric(
        "cov_precision_marginal",
        "COV-P as published",
        "share",
        "higher",
        _SCRIPT,
        definition="COV-P by CDVAE's script, as in all published tables: the nearest "
        "structure and the nearest composition may be two different crystals.",
    ),
    Metric(
        "amsd_recall",
        "AMSD-R",
        "1",
        "lower",
        _APPENDIX,
        biased=True,
        definition="Mean over reference crystals of the distance to the nearest "
        "generated structure, between CrystalNN fingerprints.",
    ),
    Metric(
        "amcd_recall",
        "AMCD-R",
        "1",
        "lower",
        _APPENDIX,
        biased=True,
        definition="Mean over reference crystals of the distance to the nearest "
        "generated composition, between normalised Magpie features.",
    ),
    Metric(
        "amsd_precision",
        "AMSD-P",
        "1",
        "lower",
        _APPENDIX,
        gated=True,
        definition="Mean over generated crystals of the distance to the nearest "
        "reference structure, between CrystalNN fingerprints.",
    ),
    Metric(
        "amcd_precision",
        "AMCD-P",
        "1",
        "lower",
        _APPENDIX,
        definition="Mean over generated crystals of the distance to the nearest "
        "reference composition, between normalised Magpie features.",
    ),
)

MEASURE = Measure(
    "coverage",
    30,
    _METRICS,
    coverage,
    roles=("gen", "ref"),
    features=("crystalnn", "magpie"),
    settings=("thresholds",),
    accumulator=CoverageParts,
)
