"""What a structure is, in a row of a table: formula, size, density, space group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.registry import get_extractor
from crysmetrics.features.sample import Sample, extract
from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.metrics.emd import densities, num_elements


def reduced_formulas(crystals: Crystals) -> list[str]:
    """Write formulas in smallest whole numbers, elements in order of electronegativity."""
    from crysmetrics.features._element_data import ELECTRONEGATIVITY

    counts = crystals.element_counts
    reduced = counts // np.gcd.reduce(counts, axis=1, keepdims=True)
    # An element without an electronegativity stands last, as in pymatgen's formulas.
    rank = np.argsort(np.argsort(np.nan_to_num(ELECTRONEGATIVITY, nan=np.inf), kind="stable"))
    formulas = []
    for row in reduced:
        elements = np.flatnonzero(row)
        ordered = elements[np.argsort(rank[elements])].tolist()
        formulas.append("".join(SYMBOLS[z] + (str(row[z]) if row[z] > 1 else "") for z in ordered))
    return formulas


def describe(sample: Sample) -> dict[str, NDArray[Any]]:
    """Describe the structures of a set in columns.

    `formula`, `num_atoms`, `num_elements`, `density` in g/cm³, `volume_per_atom` in Å³, and
    `space_group` (0 where none is found).
    """
    crystals = sample.crystals
    return {
        "formula": np.array(reduced_formulas(crystals), dtype=np.str_),
        "num_atoms": crystals.num_atoms,
        "num_elements": num_elements(crystals).astype(int),
        "density": densities(crystals),
        "volume_per_atom": crystals.volumes / crystals.num_atoms,
        "space_group": space_groups(sample),
    }


def space_groups(sample: Sample) -> NDArray[np.int64]:
    """Find (B,) space group numbers within 0.1 Å, 0 where there is none."""
    # Not `sample.features`: no metric depends on it here, so it is no part of the document.
    found = sample.at_hand("space_group")
    if found is None:
        extractor = get_extractor("space_group", sample.run)
        found = extract(extractor, sample.crystals, sample.run)
    return np.nan_to_num(found.values[:, 0], nan=0).astype(np.int64)
