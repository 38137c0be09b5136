"""Novelty: how many of the generated structures the training set does not have."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, Value
from crysmetrics.metrics.intervals import mean, share
from crysmetrics.metrics.sameness import (
    AMD,
    MATCHER,
    compositions,
    ids_at,
    incomparable,
    known_crystals,
    nearest_known,
    primitive_cells,
    systems,
)
from crysmetrics.metrics.settings import EvaluationSettings

_KINDS = {
    "novelty_known_composition": "new crystal of a known composition",
    "novelty_new_composition": "new composition of a known system",
    "novelty_new_system": "new system",
}
"""Key -> how the table of structures names what is new about one."""
_KNOWN = "known crystal"
_INCOMPARABLE = "can't be compared"


def novelty(gen: Sample, train: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the share of generated structures that are not in the training set.

    A structure is known if it matches one of TRAIN by pymatgen's StructureMatcher, in either
    order, within --tolerances. Three shares add up to novelty: new crystals of known compositions
    (reduced formulas), new compositions of known chemical systems, and new systems. Structures
    that can't be read or compared count as not novel. novelty_amd is continuous: the mean of the
    largest difference of average minimum distances (AMD, in Å) from the nearest known structure,
    whatever the elements.
    """
    parts = NoveltyParts(train, settings)
    columns = parts.add(gen)
    found = parts.compute(gen.crystals.num_total)
    return Outcome(found.values, columns, failures=found.failures)


class NoveltyParts:
    """Novelty over parts of the generated set."""

    def __init__(self, train: Sample, settings: EvaluationSettings) -> None:
        self.train, self.tolerances = train, settings.tolerances
        self.compositions = set(compositions(train.crystals))
        self.systems = set(systems(train.crystals))
        self.counts: Counter[str] = Counter()
        self.distances: list[NDArray[np.float64]] = []
        self.failures: list[dict[str, str]] = []

    def update(self, part: Part) -> Columns:
        """Compare the structures of a part with the training set."""
        return self.add(part.sample)

    def add(self, gen: Sample) -> Columns:
        """Compare structures with the training set, and count them."""
        known = known_crystals(gen, self.train, self.tolerances)
        comparable = np.isfinite(primitive_cells(gen).cells[:, 0, 0])
        kinds = np.array(
            [
                _kind(is_known, can_tell, composition in self.compositions, system in self.systems)
                for is_known, can_tell, composition, system in zip(
                    (known >= 0).tolist(),
                    comparable.tolist(),
                    compositions(gen.crystals),
                    systems(gen.crystals),
                    strict=True,
                )
            ],
            dtype=np.str_,
        )
        nearest = nearest_known(gen, self.train)
        self.counts.update(kinds.tolist())
        self.distances.append(nearest.distances[np.isfinite(nearest.distances)])
        self.failures += incomparable(gen)
        return {
            "novel": np.isin(kinds, list(_KINDS.values())),
            "novelty": kinds,
            "known_as": ids_at(self.train.crystals, known),
            "amd_to_known": nearest.distances,
            "nearest_known": ids_at(self.train.crystals, nearest.rows),
        }

    def compute(self, total: int) -> Outcome:
        """Compute the shares of all structures."""
        known = len(self.train)
        hits = {key: self.counts[kind] for key, kind in _KINDS.items()}
        values: dict[str, Value] = {"novelty": share(sum(hits.values()), total, total, known)}
        values |= {key: share(count, total, total, known) for key, count in hits.items()}
        distances = np.concatenate(self.distances)
        values["novelty_amd"] = mean(distances, len(distances), known)
        return Outcome(values, failures=tuple(self.failures))


def _kind(known: bool, comparable: bool, composition: bool, system: bool) -> str:
    """Name what is new about a structure."""
    if not comparable:
        return _INCOMPARABLE
    if known:
        return _KNOWN
    new, other, beyond = _KINDS.values()
    return new if composition else other if system else beyond


_MEANS = {
    "novelty_known_composition": "that are new crystals of a composition of the training set",
    "novelty_new_composition": "of a new composition, whose elements occur together in the "
    "training set",
    "novelty_new_system": "whose elements do not occur together in the training set",
}

MEASURE = Measure(
    "novelty",
    76,
    (
        Metric(
            "novelty",
            "Novelty",
            "share",
            "higher",
            MATCHER,
            definition="Share of structures that are not the same crystal as any in the "
            "training set.",
        ),
        *(
            Metric(
                *(key, kind.capitalize(), "share", "higher", MATCHER),
                definition=f"Share of structures {_MEANS[key]}.",
            )
            for key, kind in _KINDS.items()
        ),
        Metric(
            "novelty_amd",
            "AMD distance to the nearest known",
            "Å",
            "higher",
            AMD,
            definition="Mean distance of a structure to the nearest of the training set, "
            "between average minimum distances (AMD); 0 for copies.",
        ),
    ),
    novelty,
    roles=("gen", "train"),
    features=("amd",),
    settings=("tolerances",),
    accumulator=NoveltyParts,
)
