"""Earth mover's (Wasserstein-1) distances of property distributions."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.metrics.alignn import energies
from crysmetrics.metrics.base import (
    Measure,
    Metric,
    Outcome,
    Settings,
    Value,
    random_generator,
    undefined,
)
from crysmetrics.metrics.intervals import subsampled_stderr, with_interval
from crysmetrics.metrics.subset import draw_subset

ATOMIC_MASS_UNIT = 1.66053906660
"""g/cm³ for one atomic mass unit in 1 Å³ (CODATA 2018)."""

MEASURE_OF_PROPERTY = {"density": "emd", "num_elements": "emd", "energy": "emd_energy"}


@cache
def atomic_masses() -> NDArray[np.float64]:
    """(119,) pymatgen's atomic masses in atomic mass units; NaN where it has none."""
    from pymatgen.core import Element

    masses = np.full(len(SYMBOLS), np.nan)
    for z, symbol in enumerate(SYMBOLS):
        if z > 0:
            mass = Element(symbol).atomic_mass
            masses[z] = np.nan if mass is None else float(mass)
    return masses


def densities(crystals: Crystals) -> NDArray[np.float64]:
    """(B,) mass densities in g/cm³; infinite where a cell has no volume."""
    masses = np.bincount(
        crystals.structure_index,
        weights=atomic_masses()[crystals.atomic_numbers],
        minlength=len(crystals),
    )
    with np.errstate(divide="ignore"):
        return masses / crystals.volumes * ATOMIC_MASS_UNIT


def num_elements(crystals: Crystals) -> NDArray[np.float64]:
    """(B,) number of distinct elements."""
    return (crystals.element_counts > 0).sum(axis=1).astype(float)


def emd_value(
    gen: NDArray[np.float64], ref: NDArray[np.float64], rng: np.random.Generator
) -> Value:
    """Wasserstein-1 distance of two samples of a property, in its unit.

    The standard error comes from half-samples of both.
    """
    from scipy.stats import wasserstein_distance  # takes a second; densities need none of it

    gen, ref = gen[np.isfinite(gen)], ref[np.isfinite(ref)]
    if not len(gen) or not len(ref):
        return undefined("no structure has this property", len(gen), len(ref))
    value = float(wasserstein_distance(gen, ref))
    stderr = subsampled_stderr(
        lambda i, j: float(wasserstein_distance(gen[i], ref[j])), len(gen), len(ref), rng
    )
    return with_interval(value, stderr, len(gen), len(ref))


def emd(gen: Sample, ref: Sample, settings: Settings) -> Outcome:
    """EMDs of density and of the number of elements; failures are left out."""
    columns = {"density": densities(gen.crystals), "num_elements": num_elements(gen.crystals)}
    theirs = {"density": densities(ref.crystals), "num_elements": num_elements(ref.crystals)}
    return _outcome(columns, theirs, gen, settings)


def emd_energy(gen: Sample, ref: Sample, settings: Settings) -> Outcome:
    """EMD of formation energies, both sets by the same ALIGNN.

    Absolute values are not comparable with those of other networks: CDVAE has one of its own for
    each data set, GemsDiff another.
    """
    return _outcome({"energy": energies(gen)}, {"energy": energies(ref)}, gen, settings)


def _outcome(
    ours: dict[str, NDArray[np.float64]],
    theirs: dict[str, NDArray[np.float64]],
    gen: Sample,
    settings: Settings,
) -> Outcome:
    chosen = draw_subset(gen, settings)
    values = {}
    for name, column in ours.items():
        key = f"emd_{name}"
        values[key] = emd_value(column[chosen], theirs[name], random_generator(settings, key))
    return Outcome(values, ours, theirs)


_SOURCE = "Xie et al. 2021 (CDVAE), Section 5.2; GemsDiff, Section 5.1"
_SETTINGS = ("subset", "seed")

MEASURES = (
    Measure(
        "emd",
        (
            Metric(
                *("emd_density", "EMD of density", "g/cm³", "lower", _SOURCE),
                biased=True,
                gated=True,
            ),
            Metric(
                "emd_num_elements",
                "EMD of element count",
                "elements",
                "lower",
                _SOURCE,
                biased=True,
            ),
        ),
        emd,
        needs_reference=True,
        settings=_SETTINGS,
    ),
    Measure(
        "emd_energy",
        (Metric("emd_energy", "EMD of energy", "eV/atom", "lower", _SOURCE, biased=True),),
        emd_energy,
        needs_reference=True,
        settings=_SETTINGS,
    ),
)
