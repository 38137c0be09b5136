"""Earth mover's (Wasserstein-1) distances of property distributions."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from crysmetrics.features.base import Sample
from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS
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

PROPERTIES = ("density", "energy", "num_elements")
NO_ENERGY = "energies need the ALIGNN network, which this version does not have yet"


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
    """(B,) mass densities in g/cm³."""
    masses = np.bincount(
        crystals.structure_index,
        weights=atomic_masses()[crystals.atomic_numbers],
        minlength=len(crystals),
    )
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
    gen, ref = gen[np.isfinite(gen)], ref[np.isfinite(ref)]
    if not len(gen) or not len(ref):
        return undefined("no structure has this property", len(gen), len(ref))
    value = float(wasserstein_distance(gen, ref))
    stderr = subsampled_stderr(
        lambda i, j: float(wasserstein_distance(gen[i], ref[j])), len(gen), len(ref), rng
    )
    return with_interval(value, stderr, len(gen), len(ref))


def emd(gen: Sample, ref: Sample, settings: Settings) -> Outcome:
    """EMDs of density, energy and number of elements; failures are left out."""
    chosen = draw_subset(gen, settings)
    values: dict[str, Value] = {}
    columns: dict[str, NDArray[np.float64]] = {}
    for name, compute in (("density", densities), ("num_elements", num_elements)):
        key, columns[name] = f"emd_{name}", compute(gen.crystals)
        rng = random_generator(settings, key)
        values[key] = emd_value(columns[name][chosen], compute(ref.crystals), rng)
    values["emd_energy"] = undefined(NO_ENERGY, len(chosen), len(ref))
    return Outcome(values, columns)


_SOURCE = "Xie et al. 2021 (CDVAE), Section 5.2; GemsDiff, Section 5.1"

MEASURE = Measure(
    "emd",
    (
        Metric("emd_density", "EMD of density", "g/cm³", "lower", _SOURCE),
        Metric("emd_energy", "EMD of energy", "eV/atom", "lower", _SOURCE),
        Metric("emd_num_elements", "EMD of element count", "elements", "lower", _SOURCE),
    ),
    emd,
    needs_reference=True,
    settings=("subset", "seed"),
)
