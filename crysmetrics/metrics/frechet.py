"""Compute Fréchet distances between the feature distributions of two sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from crysmetrics.features.registry import FRECHET_FEATURES, entry
from crysmetrics.features.sample import Sample
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, random_generator
from crysmetrics.metrics.gaussians import frechet_value
from crysmetrics.metrics.moments import RowStream
from crysmetrics.metrics.settings import EvaluationSettings


def _compute(name: str) -> Callable[[Sample, Sample, EvaluationSettings], Outcome]:
    def compute(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
        key = f"fd_{name}"
        ours, theirs = gen.features(name), ref.features(name)
        rng = random_generator(settings, key)
        return Outcome({key: frechet_value(ours.values[ours.ok], theirs.values[theirs.ok], rng)})

    return compute


class FrechetParts:
    """A Fréchet distance on some features over parts of the generated set."""

    def __init__(self, name: str, ref: Sample, settings: EvaluationSettings) -> None:
        self.name, self.ref, self.settings = name, ref, settings
        self.rows = RowStream()

    def update(self, part: Part) -> Columns:
        """Take in the features of a part; no columns."""
        found = part.sample.features(self.name)
        self.rows.add(found.values[found.ok], part.keys[found.ok])
        return {}

    def compute(self, total: int) -> Outcome:
        """Compute the distance of all parts."""
        key, theirs = f"fd_{self.name}", self.ref.features(self.name)
        rng = random_generator(self.settings, key)
        return Outcome({key: self.rows.frechet(theirs.values[theirs.ok], rng)})


_SOURCE = "Adaptive-cell score model (arXiv 2310.10695), Section 5.2, Table 1"

MEASURES = tuple(
    Measure(
        f"frechet_{name}",
        60 + k,
        (
            Metric(
                *(f"fd_{name}", entry(name).frechet, "1", "lower", _SOURCE),
                biased=True,
                definition=f"Fréchet distance between generated and reference sets in the features "
                f"{name} (`crysmetrics featurize --features {name}`); too large for few "
                "structures.",
            ),
        ),
        _compute(name),
        roles=("gen", "ref"),
        features=(name,),
        settings=("seed",),
        accumulator=partial(FrechetParts, name),
    )
    for k, name in enumerate(FRECHET_FEATURES)
)
