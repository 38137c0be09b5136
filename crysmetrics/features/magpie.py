"""Magpie fingerprints as array code: an element table times compositions.

Equal to matminer's `ElementProperty.from_preset("magpie")` (Ward et al., npj Comput. Mater. 2,
16028 (2016)): six statistics over the elements of a composition, weighted by their amounts, of
each of 22 elemental properties. matminer looks every property of every element up anew for each
structure; here the table (119, 22) is read once, from the data files that matminer installs.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.io.elements import MAX_ATOMIC_NUMBER
from crysmetrics.progress import task

PROPERTIES: tuple[str, ...] = (
    *("Number", "MendeleevNumber", "AtomicWeight", "MeltingT", "Column", "Row"),
    *("CovalentRadius", "Electronegativity"),
    *("NsValence", "NpValence", "NdValence", "NfValence", "NValence"),
    *("NsUnfilled", "NpUnfilled", "NdUnfilled", "NfUnfilled", "NUnfilled"),
    *("GSvolume_pa", "GSbandgap", "GSmagmom", "SpaceGroupNumber"),
)
STATISTICS: tuple[str, ...] = ("minimum", "maximum", "range", "mean", "avg_dev", "mode")
FEATURE_LABELS: tuple[str, ...] = tuple(
    f"MagpieData {statistic} {name}" for name in PROPERTIES for statistic in STATISTICS
)

# Structures at a time: their element counts and the rows of the table stay below some 20 MB.
_STRUCTURES_PER_CHUNK = 4096


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of Magpie fingerprints (B, 132), labelled as matminer labels them."""
    # The table comes with matminer, so its version belongs to the name.
    made_by = f"crysmetrics 1, matminer {version('matminer')}"
    parameters = {"preset": "magpie", "impute_nan": True}
    return Extractor(name, made_by, FEATURE_LABELS, _compute, parameters, cached=False)


def _compute(crystals: Crystals, workers: int | None) -> tuple[NDArray[np.float64], dict[int, str]]:
    # One core does some 10^5 structures a second: nothing to spread over workers.
    return magpie_fingerprints(crystals), {}


def magpie_fingerprints(crystals: Crystals, impute_nan: bool = True) -> NDArray[np.float64]:
    """Compute the Magpie fingerprints of crystals.

    Args:
        crystals: B structures.
        impute_nan: whether a property unknown for an element takes its mean over all elements
            that have it (the default of matminer since 0.10) or is NaN (before; the published
            numbers of CDVAE), which makes all six statistics of it NaN, except for a mode
            decided by other elements.

    Returns:
        (B, 132) in the order of FEATURE_LABELS; in the units of matminer's tables.
    """
    table = element_table(impute_nan)
    values = np.empty((len(crystals), len(FEATURE_LABELS)))
    with task("Magpie fingerprints", len(crystals)) as advance:
        for start in range(0, len(crystals), _STRUCTURES_PER_CHUNK):
            part = slice(start, start + _STRUCTURES_PER_CHUNK)
            values[part] = composition_statistics(crystals[part].element_counts, table)
            advance(len(values[part]))
    return values


def composition_statistics(
    amounts: NDArray[np.int64] | NDArray[np.float64], table: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute statistics of elemental properties over compositions, as matminer's `PropertyStats`.

    Args:
        amounts: (B, Z) amount of each element, at least one of them positive in each row.
        table: (Z, P) elemental properties.

    Returns:
        (B, 6 P): minimum, maximum, range, mean, mean absolute deviation from the mean (both
        weighted by amount) and mode of each property. The mode is the property of the most
        abundant element; among equally abundant ones (to a relative 1e-5) the smallest value.
    """
    # One row for each element of each composition; rows of a composition follow each other.
    row, element = np.nonzero(amounts)
    starts = np.searchsorted(row, np.arange(len(amounts)))
    weight = amounts[row, element].astype(np.float64)[:, None]
    value = table[element]
    total = np.add.reduceat(weight, starts)

    # A NaN spreads through all of these, as it does in matminer.
    smallest = np.minimum.reduceat(value, starts)
    largest = np.maximum.reduceat(value, starts)
    mean = np.add.reduceat(weight * value, starts) / total
    deviation = np.add.reduceat(weight * np.abs(value - mean[row]), starts) / total
    most = np.maximum.reduceat(weight, starts)
    common = np.isclose(weight, most[row])
    mode = np.minimum.reduceat(np.where(common, value, np.inf), starts)

    parts = (smallest, largest, largest - smallest, mean, deviation, mode)
    return np.stack(parts, axis=2).reshape(len(amounts), -1)


@cache
def element_table(impute_nan: bool = True) -> NDArray[np.float64]:
    """Read properties (119, 22) of the elements by atomic number, in the order of PROPERTIES.

    Read from matminer's data files, without importing matminer, which takes a second. Row 0 is
    no element, and NaN.
    """
    folder = files("matminer").joinpath("utils", "data_files", "magpie_elementdata")
    table = np.full((MAX_ATOMIC_NUMBER + 1, len(PROPERTIES)), np.nan)
    for column, name in enumerate(PROPERTIES):
        # One line for each element from hydrogen on; "Missing" or no line if nothing is known.
        lines = folder.joinpath(f"{name}.table").read_text().splitlines()
        for z, line in enumerate(lines[:MAX_ATOMIC_NUMBER], start=1):
            try:
                table[z, column] = float(line)
            except ValueError:
                continue
    if impute_nan:
        for known in table[1:].T:  # column by column: the same sum, bit by bit, as matminer's
            known[np.isnan(known)] = np.nanmean(known.copy())
    table.setflags(write=False)
    return table
