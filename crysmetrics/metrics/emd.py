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
from crysmetrics.metrics.settings import THRESHOLDS, EvaluationSettings
from crysmetrics.metrics.subset import draw_subset
from crysmetrics.spill import Columns as ColumnsOnDisk

ATOMIC_MASS_UNIT = 1.66053906660
"""g/cm³ for one atomic mass unit in 1 Å³ (CODATA 2018)."""

MEASURE_OF_PROPERTY = {
    "density": "emd",
    "num_elements": "emd",
    "energy": "emd_energy",
    "energy_cdvae": "emd_energy_cdvae",
}
_ABSENT = "no structure has this property"


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
    gen: NDArray[np.float64],
    ref: NDArray[np.float64],
    rng: np.random.Generator,
    absent: str = _ABSENT,
) -> Value:
    """Compute the Wasserstein-1 distance of two samples of a property, in its unit.

    The standard error comes from half-samples of both.

    Args:
        gen, ref: values of both sets, NaN where there is none.
        rng: draws the half-samples.
        absent: the reason to give where a set has no value at all.
    """
    from scipy.stats import wasserstein_distance  # takes a second; densities need none of it

    gen, ref = gen[np.isfinite(gen)], ref[np.isfinite(ref)]
    if not len(gen) or not len(ref):
        return undefined(absent, len(gen), len(ref))
    value = float(wasserstein_distance(gen, ref))
    stderr = subsampled_stderr(
        lambda i, j: float(wasserstein_distance(gen[i], ref[j])), len(gen), len(ref), rng
    )
    return with_interval(value, stderr, len(gen), len(ref))


def emd(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """Compute EMDs of density and of the number of elements; failures are left out."""
    return _outcome(_properties(gen), _properties(ref), draw_subset(gen, settings), settings)


def emd_energy(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """EMD of formation energies, both sets by the same ALIGNN.

    Absolute values are not comparable with those of other networks: CDVAE has one of its own for
    each data set, GemsDiff another.
    """
    return _outcome(_energies(gen), _energies(ref), draw_subset(gen, settings), settings)


def emd_energy_cdvae(gen: Sample, ref: Sample, settings: EvaluationSettings) -> Outcome:
    """EMD of energies by CDVAE's own network for the data set that the thresholds name.

    This is the energy EMD that published tables of CDVAE's protocol hold for the same data set.
    """
    ours, theirs = _energies_cdvae(gen, settings), _energies_cdvae(ref, settings)
    return _outcome(ours, theirs, draw_subset(gen, settings), settings, _NO_NETWORK)


class EmdParts:
    """EMDs over parts of the generated set; the properties of every structure wait on disk."""

    def __init__(
        self,
        properties: Callable[[Sample], Columns],
        ref: Sample,
        settings: EvaluationSettings,
        absent: str = _ABSENT,
    ) -> None:
        self.properties, self.ref, self.settings = properties, ref, settings
        self.absent = absent
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
        found = _outcome(ours, theirs, slice(None), self.settings, self.absent)
        return Outcome(found.values, {}, theirs)


def _properties(sample: Sample) -> Columns:
    return {"density": densities(sample.crystals), "num_elements": num_elements(sample.crystals)}


def _energies(sample: Sample) -> Columns:
    return {"energy": energies(sample)}


_NO_NETWORK = (
    "CDVAE's networks are each for one data set: name it by --thresholds mp20, perov5 or carbon24"
)


def _energies_cdvae(sample: Sample, settings: EvaluationSettings) -> Columns:
    dataset = settings.thresholds.name
    if dataset is None:
        return {"energy_cdvae": np.full(len(sample), np.nan)}
    return {"energy_cdvae": sample.features(f"cdvae_{dataset}").values[:, 0]}


def _cdvae_parts(ref: Sample, settings: EvaluationSettings) -> EmdParts:
    properties = partial(_energies_cdvae, settings=settings)
    return EmdParts(properties, ref, settings, _NO_NETWORK)


def _outcome(
    ours: Columns,
    theirs: Columns,
    chosen: NDArray[np.intp] | slice,
    settings: EvaluationSettings,
    absent: str = _ABSENT,
) -> Outcome:
    values = {}
    for name, column in ours.items():
        key = f"emd_{name}"
        rng = random_generator(settings, key)
        values[key] = emd_value(column[chosen], theirs[name], rng, absent)
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
                definition="Wasserstein-1 distance between the distributions of densities of "
                "generated and reference structures.",
            ),
            Metric(
                "emd_num_elements",
                "EMD of element count",
                "elements",
                "lower",
                _SOURCE,
                biased=True,
                definition="Wasserstein-1 distance between the distributions of the number of "
                "different elements in a structure.",
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
        (
            Metric(
                "emd_energy",
                "EMD of energy",
                "eV/atom",
                "lower",
                _SOURCE,
                biased=True,
                definition="Wasserstein-1 distance between the distributions of formation "
                "energies that ALIGNN predicts.",
            ),
        ),
        emd_energy,
        roles=("gen", "ref"),
        features=("alignn",),
        settings=("subset", "seed"),
        accumulator=partial(EmdParts, _energies),
    ),
    Measure(
        "emd_energy_cdvae",
        26,
        (
            Metric(
                "emd_energy_cdvae",
                "EMD of energy (CDVAE's network)",
                "eV/atom",
                "lower",
                "Xie et al. 2021 (CDVAE), Section 5.2; the networks of its released script",
                biased=True,
                definition="The same distance for energies of CDVAE's own network, which "
                "published tables of its protocol hold.",
            ),
        ),
        emd_energy_cdvae,
        roles=("gen", "ref"),
        features=tuple(f"cdvae_{dataset}" for dataset in THRESHOLDS),
        settings=("thresholds", "subset", "seed"),
        accumulator=_cdvae_parts,
    ),
)
