"""Structures in and out: the layer that crysmetrics and crysgen share.

It knows nothing of metrics or models.
"""

from crysmetrics.io.builder import CrystalsBuilder, from_pymatgen
from crysmetrics.io.crystals import Crystals, Failure
from crysmetrics.io.reading import MAX_ATOMS, read
from crysmetrics.io.writing import write

__all__ = [
    "MAX_ATOMS",
    "Crystals",
    "CrystalsBuilder",
    "Failure",
    "from_pymatgen",
    "read",
    "write",
]
