"""FAD, the Fréchet ALIGNN distance, with what belongs beside it: FAD∞ and a kernel distance."""

from __future__ import annotations

from crysmetrics.features.sample import Sample
from crysmetrics.metrics.alignn import features
from crysmetrics.metrics.base import Measure, Metric, Outcome, Settings, random_generator
from crysmetrics.metrics.extrapolation import extrapolate
from crysmetrics.metrics.frechet import frechet_value
from crysmetrics.metrics.kernel import kernel_distance


def fad(gen: Sample, ref: Sample, settings: Settings) -> Outcome:
    """Distances of ALIGNN's 256 mean-pooled features; structures without features are left out.

    GemsDiff, Section 5.2: the Fréchet distance of the activations before ALIGNN's last layer.
    """
    a, b = features(gen), features(ref)
    infinite, sizes, distances = extrapolate(a, b, random_generator(settings, "fad_inf"))
    values = {
        "fad": frechet_value(a, b, random_generator(settings, "fad")),
        "fad_inf": infinite,
        "kad": kernel_distance(a, b),
    }
    return Outcome(values, series={"fad_by_size": {"structures": sizes, "fad": distances}})


_SOURCE = "GemsDiff, Section 5.2"

MEASURE = Measure(
    "fad",
    (
        Metric("fad", "Fréchet ALIGNN distance", "1", "lower", _SOURCE, biased=True, gated=True),
        Metric(
            "fad_inf",
            "FAD of infinitely many samples",
            "1",
            "lower",
            "Chong and Forsyth 2020, with ALIGNN's features",
            biased=True,
        ),
        Metric(
            "kad",
            "Kernel ALIGNN distance",
            "1",
            "lower",
            "Bińkowski et al. 2018, with ALIGNN's features",
        ),
    ),
    fad,
    needs_reference=True,
    settings=("seed",),
)
