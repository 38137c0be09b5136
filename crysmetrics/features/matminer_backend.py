"""CrystalNN and Magpie fingerprints by matminer's own featurizers, in parallel processes.

Slow, and the yardstick: what other backends compute must equal these numbers.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.io.parsed import one_line
from crysmetrics.parallel import chunks_of, in_processes
from crysmetrics.progress import task

_SITES_PER_JOB = 400
_TITLES = {"crystalnn": "CrystalNN fingerprints", "magpie": "Magpie fingerprints"}


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of matminer's `CrystalNNFingerprint` (ops, mean) or `ElementProperty`."""

    def compute(
        crystals: Crystals, workers: int | None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        return _compute(name, crystals, workers)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = tuple(_featurizer(name).feature_labels())
    # Coordination numbers come from pymatgen's CrystalNN, so its version belongs to the name.
    made_by = f"matminer {version('matminer')}, pymatgen {version('pymatgen')}"
    preset = "ops" if name == "crystalnn" else "magpie"
    return Extractor(name, made_by, labels, compute, {"preset": preset, "statistic": "mean"})


@cache
def _featurizer(name: str) -> Any:
    if name == "crystalnn":
        from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

        return CrystalNNFingerprint.from_preset("ops")
    from matminer.featurizers.composition.composite import ElementProperty

    return ElementProperty.from_preset("magpie")


def _compute(
    name: str, crystals: Crystals, workers: int | None
) -> tuple[NDArray[np.float64], dict[int, str]]:
    width = len(_featurizer(name).feature_labels())
    values = np.full((len(crystals), width), np.nan)
    failures: dict[int, str] = {}
    costs = crystals.num_atoms if name == "crystalnn" else np.full(len(crystals), 4)
    slices = chunks_of(costs.tolist(), _SITES_PER_JOB)
    jobs = [(name, crystals[part]) for part in slices]
    with task(_TITLES[name], len(crystals)) as advance:
        for part, (rows, reasons) in zip(slices, in_processes(_chunk, jobs, workers), strict=True):
            values[part] = rows
            failures.update({part.start + i: reason for i, reason in reasons.items()})
            advance(len(rows))
    return values, failures


def _chunk(name: str, crystals: Crystals) -> tuple[NDArray[np.float64], dict[int, str]]:
    featurizer = _featurizer(name)
    rows = np.full((len(crystals), len(featurizer.feature_labels())), np.nan)
    failures = {}
    for i, structure in enumerate(crystals.to_pymatgen()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if name == "crystalnn":
                    sites = [featurizer.featurize(structure, k) for k in range(len(structure))]
                    rows[i] = np.mean(sites, axis=0)
                else:
                    rows[i] = featurizer.featurize(structure.composition)
        except Exception as error:  # matminer raises whatever its dependencies ran into
            failures[i] = one_line(error)
    return rows, failures
