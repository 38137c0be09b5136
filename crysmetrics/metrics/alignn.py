"""ALIGNN's features and energies of a sample, as metrics need them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.sample import Sample


def features(sample: Sample) -> NDArray[np.float64]:
    """Compute (n, 256) mean-pooled activations of the structures that have them."""
    from crysmetrics.features.alignn.extractor import FEATURE_COLUMNS

    found = sample.features("alignn")
    return found.values[found.ok, FEATURE_COLUMNS]


def energies(sample: Sample) -> NDArray[np.float64]:
    """Predict (B,) formation energies in eV/atom, NaN where there is none.

    Raises:
        UserError: if the weights predict something else.
    """
    from crysmetrics.errors import UserError
    from crysmetrics.features.alignn.extractor import ENERGY_COLUMN

    found = sample.features("alignn")
    if found.ok.any() and np.isnan(found.values[found.ok, ENERGY_COLUMN]).all():
        raise UserError("These ALIGNN weights do not predict formation energies.")
    values: NDArray[np.float64] = found.values[:, ENERGY_COLUMN]
    return values
