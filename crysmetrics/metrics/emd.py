"""Earth mover's (Wasserstein-1) distances of property distributions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.metrics.alignn import energies
from crysmetrics.metrics.base import (
    Columns,
    Measure,
    Metric,
    Outcome,
    Part,
    Value,
    random_generator,
    undefined,
)
from crysmetrics.metrics.intervals import subsampled_stderr, with_interval
from crysmetrics.metrics.settings import EvaluationSettings
from crysmetrics.metrics.subset import draw_subset
from crysmetrics.spill import Columns as ColumnsOnDisk

ATOMIC_MASS_UNIT = 1.66053906660
"""g/cm³ for one atomic mass unit in 1 Å³ (CODATA 2018)."""

MEASURE_OF_PROPERTY = {"density": "emd", "num_elements": "emd", "energy": "emd_energy"}


@cache
def atomic_masses() -> NDArray[np.float64]:
    """Look up (119,) pymatgen's atomic masses in u; NaN where it has none."""
    from pymatgen.core import Element

    masses = np.full(len(SYMBOLS), np.nan)
    for z, symbol in enumerate(SYMBOLS):
        if z > 0:
            mass = Element(symbol).atomic_mass
            masses[z] = np.nan if mass is None else float(mass)
    return masses


def densities(crystals: Crystals) -> NDArray[np.float64]:
    """Compute (B,) mass densities in g/cm³; infinite where a cell has no volume."""
    masses = np.bincount(
        crystals.structure_index,
        weights=atomic_masses()[crystals.atomic_numbers],
        minlength=len(crystals),
    )
    with np.errstate(divide="ignore"):
        return masses / crystals.volumes * ATOMIC_MASS_UNIT


def num_elements(crystals: Crystals) -> NDArray[np.float64]:
    """Count the distinct elements of each structure (B,)."""
    return (crystals.element_counts > 0).sum(axis=1).astype(float)


def emd_value(
    gen: NDArray[np.float64], ref: NDArray[np.float64], rng: np.random.Generator
) -> Value:
    """Compute the Wasserstein-1 distance of two samples of a property, in its unit.

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


def emd(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """EMDs of density and of the number of elements; failures are left out."""
    return _outcome(_properties(gen), _properties(ref), draw_subset(gen, settings), settings)


def emd_energy(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """EMD of formation energies, both sets by the same ALIGNN.

    Absolute values are not comparable with those of other networks: CDVAE has one of its own for
    each data set, GemsDiff another.
    """
    return _outcome(_energies(gen), _energies(ref), draw_subset(gen, settings), settings)


class EmdParts:
    """EMDs over parts of the generated set; the properties of every structure wait on disk."""

    def __init__(
        self, properties: Callable[[Sample], Columns], ref: Sample, settings: EvaluationSettings
    ) -> None:
        self.properties, self.ref, self.settings = properties, ref, settings
        self.columns = ColumnsOnDisk()

    def update(self, part: Part) -> Columns:
        """Take in the properties of a part."""
        found = self.properties(part.sample)
        for name, values in found.items():
            self.columns.add(name, values)
        return found

    def compute(self, total: int) -> Outcome:
        """Compute the distances of all parts."""
        theirs = self.properties(self.ref)
        ours = {name: self.columns[name] for name in theirs}
        found = _outcome(ours, theirs, slice(None), self.settings)
        return Outcome(found.values, {}, theirs)


def _properties(sample: Sample) -> Columns:
    return {"density": densities(sample.crystals), "num_elements": num_elements(sample.crystals)}


def _energies(sample: Sample) -> Columns:
    return {"energy": energies(sample)}


def _outcome(
    ours: Columns,
    theirs: Columns,
    chosen: NDArray[np.intp] | slice,
    settings: EvaluationSettings,
) -> Outcome:
    values = {}
    for name, column in ours.items():
        key = f"emd_{name}"
        values[key] = emd_value(column[chosen], theirs[name], random_generator(settings, key))
    return Outcome(values, ours, theirs)


_SOURCE = "Xie et al. 2021 (CDVAE), Section 5.2; GemsDiff, Section 5.1"

MEASURES = (
    Measure(
        "emd",
        20,
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
        roles=("gen", "ref"),
        settings=("subset", "seed"),
        accumulator=partial(EmdParts, _properties),
    ),
    Measure(
        "emd_energy",
        25,
        (Metric("emd_energy", "EMD of energy", "eV/atom", "lower", _SOURCE, biased=True),),
        emd_energy,
        roles=("gen", "ref"),
        features=("alignn",),
        settings=("subset", "seed"),
        accumulator=partial(EmdParts, _energies),
    ),
)
