"""Leakage: what of a set the training set has: compositions, structure types, crystals."""

from __future__ import annotations

import numpy as np

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part
from crysmetrics.metrics.intervals import share
from crysmetrics.metrics.sameness import (
    MATCHER,
    compositions,
    ids_at,
    known_crystals,
    known_prototypes,
)
from crysmetrics.metrics.settings import EvaluationSettings

_COLUMNS = {
    "leakage_composition": "composition_known",
    "leakage_prototype": "prototype_known",
    "leakage_crystal": "crystal_known",
}


def leakage(gen: Sample, train: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the shares of compositions, prototypes and crystals that the training set has.

    Of generated structures, or of a test set before anything is measured on it. A composition is
    a reduced formula; a prototype is known if TRAIN has a structure that matches under some
    permutation of species (pymatgen's fit_anonymous, in either order), and a crystal if it does
    with its own, within --tolerances. Structures that can't be read count as not known.
    """
    parts = LeakageParts(train, settings)
    columns = parts.add(gen)
    return Outcome(parts.compute(gen.crystals.num_total).values, columns)


class LeakageParts:
    """Leakage over parts of a set."""

    def __init__(self, train: Sample, settings: EvaluationSettings) -> None:
        self.train, self.tolerances = train, settings.tolerances
        self.compositions = set(compositions(train.crystals))
        self.counts = dict.fromkeys(_COLUMNS, 0)

    def update(self, part: Part) -> Columns:
        """Compare the structures of a part with the training set."""
        return self.add(part.sample)

    def add(self, gen: Sample) -> Columns:
        """Compare structures with the training set, and count them."""
        crystals = known_crystals(gen, self.train, self.tolerances)
        # A known crystal is one of a known prototype; only the others need be looked at.
        prototypes = crystals.copy()
        rest = np.flatnonzero(crystals < 0)
        if len(rest):
            prototypes[rest] = known_prototypes(gen.chosen(rest), self.train, self.tolerances)
        known = {
            "leakage_composition": np.array(
                [key in self.compositions for key in compositions(gen.crystals)], dtype=bool
            ),
            "leakage_prototype": prototypes >= 0,
            "leakage_crystal": crystals >= 0,
        }
        for key, found in known.items():
            self.counts[key] += int(found.sum())
        return {
            **{_COLUMNS[key]: found for key, found in known.items()},
            "prototype_as": ids_at(self.train.crystals, prototypes),
            "known_as": ids_at(self.train.crystals, crystals),
        }

    def compute(self, total: int) -> Outcome:
        """Compute the shares of all structures."""
        known = len(self.train)
        return Outcome({k: share(n, total, total, known) for k, n in self.counts.items()})


MEASURE = Measure(
    "leakage",
    77,
    (
        Metric(
            *("leakage_composition", "Compositions in the training set", "share", "lower"),
            "crysmetrics",
            definition="Share of structures whose composition the training set has.",
        ),
        Metric(
            "leakage_prototype",
            "Prototypes in the training set",
            "share",
            "lower",
            MATCHER,
            definition="Share of structures that match one of the training set when elements "
            "are ignored.",
        ),
        Metric(
            "leakage_crystal",
            "Crystals in the training set",
            "share",
            "lower",
            MATCHER,
            definition="Share of structures that are the same crystal as one of the training set.",
        ),
    ),
    leakage,
    roles=("gen", "train"),
    features=("amd",),
    settings=("tolerances",),
    accumulator=LeakageParts,
)
