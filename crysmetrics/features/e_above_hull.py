"""Energies above the hull as a feature: cached by structure, so that an interrupted run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from crysmetrics.above_hull import DEFAULT, StabilitySettings, stability
from crysmetrics.device import torch_device
from crysmetrics.features.extractor import Extractor, Features, Part, Run
from crysmetrics.features.sample import Sample
from crysmetrics.io import Crystals
from crysmetrics.io.energies import BESIDE, ENERGY
from crysmetrics.parallel import cpu_count, in_processes
from crysmetrics.progress import task
from crysmetrics.relaxation import ATOMS_TOGETHER, MOST_PROCESSES, batches, displacement

_LABELS = (ENERGY, *BESIDE)
"""Columns; behind them stand the formation energies by each potential."""
GIVEN = "as given"
"""Version of an extractor that computes nothing."""


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of energies above the hull in eV/atom, (B, 5 + potentials).

    Raises:
        UserError: if a potential is not installed, or there is no such table of known phases.
    """
    settings = run.stability or DEFAULT
    energies = (f"formation_energy_{potential}" for potential in settings.potentials)
    labels = (*_LABELS, *energies)

    def parts(crystals: Crystals, workers: int | None) -> Iterator[Part]:
        device = torch_device(run.device)
        kind = device.partition(":")[0]
        rows = list(batches(crystals.num_atoms, ATOMS_TOGETHER[kind]))
        jobs = [(part, crystals[part], settings, device) for part in rows]
        count = min(cpu_count(workers), MOST_PROCESSES) if kind == "cpu" else 1
        with task("Energies above the hull", len(crystals)) as advance:
            for part in in_processes(_above_hull, jobs, count, in_order=False):
                yield part
                advance(len(part[0]))

    def compute(
        crystals: Crystals, workers: int | None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        values = np.full((len(crystals), len(labels)), np.nan)
        failures = {}
        for rows, found, reasons in parts(crystals, workers):
            values[rows] = found
            failures.update({int(rows[i]): reason for i, reason in reasons.items()})
        return values, dict(sorted(failures.items()))

    made_by = f"crysmetrics 2, pymatgen {version('pymatgen')}"
    return Extractor(name, made_by, labels, compute, settings.identity(), parts=parts)


def _above_hull(
    rows: NDArray[np.int64], crystals: Crystals, settings: StabilitySettings, device: str
) -> Part:
    """Compute the features of a few crystals, which are relaxed together."""
    found = stability(crystals, settings, device=device, workers=1)
    columns = [found.e_above_hull, found.hull_energy, found.competing, found.hull_error]
    moved = np.full(len(crystals), np.nan)
    if settings.relax:
        pairs = zip(crystals, found.relaxed, strict=True)
        moved[:] = [displacement(start, end) for start, end in pairs]
    values = np.column_stack([*columns, moved, *found.formation.values()]).astype(np.float64)
    values[list(found.failures)] = np.nan
    return rows, values, dict(found.failures)


def use_given(sample: Sample, always: bool = False) -> bool:
    """Take a set's property `e_above_hull` (eV/atom) for its energies above the hull.

    What else `crysmetrics stability` knows of them is taken from properties of those names.

    Args:
        sample: the structures.
        always: whether to do so even where none of them has one, as in parts of a larger set.

    Returns:
        Whether any structure has one, or always is set; if not, nothing is changed.
    """
    values = np.full((len(sample), len(_LABELS)), np.nan)
    for column, label in enumerate(_LABELS):
        given = sample.crystals.properties.get(label)
        if given is not None and given.dtype.kind in "fiu":
            values[:, column] = np.where(np.isfinite(given), given, np.nan)
    if not always and np.isnan(values[:, 0]).all():
        return False
    missing = np.flatnonzero(np.isnan(values[:, 0])).tolist()
    failures = dict.fromkeys(missing, "no energy is given; it counts as not stable")

    def compute(_: Crystals, __: int | None) -> tuple[NDArray[np.float64], dict[int, str]]:
        return values, failures

    values[missing] = np.nan
    found = hashlib.sha256(values[:, 0].tobytes()).hexdigest()
    given_by = Extractor(ENERGY, GIVEN, _LABELS, compute, {"sha256": found}, cached=False)
    sample.preset(given_by, Features(values, failures))
    return True


def are_given(sample: Sample) -> bool:
    """Tell whether energies came with the structures or from a table, not from a potential."""
    extractor = sample.extractors.get(ENERGY)
    return extractor is not None and extractor.version == GIVEN
