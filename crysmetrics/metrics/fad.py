"""FAD, the Fréchet ALIGNN distance, with what belongs beside it: FAD∞ and a kernel distance."""

from __future__ import annotations

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.alignn import features
from crysmetrics.metrics.base import Columns, Measure, Metric, Outcome, Part, random_generator
from crysmetrics.metrics.extrapolation import extrapolate
from crysmetrics.metrics.gaussians import frechet_value
from crysmetrics.metrics.kernel import kernel_distance
from crysmetrics.metrics.moments import RowStream
from crysmetrics.metrics.settings import EvaluationSettings


def fad(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute the Fréchet ALIGNN distance, its extrapolation, and a kernel distance.

    GemsDiff, Section 5.2: the Fréchet distance of the 256 activations before ALIGNN's last layer;
    structures without features are left out. The number belongs to the weights.
    """
    a, b = features(gen), features(ref)
    infinite, sizes, distances = extrapolate(a, b, random_generator(settings, "fad_inf"))
    return Outcome(
        {"fad_inf": infinite},
        series={"fad_by_size": {"structures": sizes, "fad": distances}},
        deferred={
            "fad": lambda: frechet_value(a, b, random_generator(settings, "fad")),
            "kad": lambda: kernel_distance(a, b),
        },
    )


class FadParts:
    """FAD over parts of the generated set; its relatives are of a random sample of many."""

    def __init__(self, ref: Sample, settings: EvaluationSettings) -> None:
        self.ref, self.settings = ref, settings
        self.rows = RowStream()

    def update(self, part: Part) -> Columns:
        """Take in the features of a part; no columns."""
        self.rows.add(features(part.sample), part.keys[part.sample.features("alignn").ok])
        return {}

    def compute(self, total: int) -> Outcome:
        """Compute the distances of all parts."""
        theirs, sampled = features(self.ref), self.rows.rows
        infinite, sizes, distances = extrapolate(
            sampled, theirs, random_generator(self.settings, "fad_inf")
        )
        return Outcome(
            {"fad_inf": self.rows.noted(infinite)},
            series={"fad_by_size": {"structures": sizes, "fad": distances}},
            deferred={
                "fad": lambda: self.rows.frechet(theirs, random_generator(self.settings, "fad")),
                "kad": lambda: self.rows.noted(kernel_distance(sampled, theirs)),
            },
        )


_SOURCE = "GemsDiff, Section 5.2"

MEASURE = Measure(
    "fad",
    50,
    (
        Metric(
            "fad",
            "Fréchet ALIGNN distance",
            "1",
            "lower",
            _SOURCE,
            biased=True,
            gated=True,
            definition="Fréchet distance between generated and reference sets in the 256 "
            "features before ALIGNN's last layer; too large for few structures, "
            "and blind to small displacements of atoms (below 0.1 Å or more).",
        ),
        Metric(
            "fad_inf",
            "FAD of infinitely many samples",
            "1",
            "lower",
            "Chong and Forsyth 2020, with ALIGNN's features",
            biased=True,
            definition="FAD extrapolated to infinitely many generated structures, so that "
            "sets of different sizes compare.",
        ),
        Metric(
            "kad",
            "Kernel ALIGNN distance",
            "1",
            "lower",
            "Bińkowski et al. 2018, with ALIGNN's features",
            definition="Kernel distance (MMD with a cubic kernel) of the features of FAD; "
            "its expected value does not depend on the number of structures.",
        ),
    ),
    fad,
    roles=("gen", "ref"),
    features=("alignn",),
    settings=("seed",),
    accumulator=FadParts,
)
