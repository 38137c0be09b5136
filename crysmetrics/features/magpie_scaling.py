"""CDVAE's normalisation of the Magpie fingerprint."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray


@cache
def cdvae_constants() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the means and standard deviations (132 each) behind CDVAE's published numbers.

    From the `CompScaler` of CDVAE's released evaluation code (Xie et al. 2021, MIT licence).
    """
    text = files("crysmetrics.features").joinpath("cdvae_magpie_scaler.json").read_text()
    constants = json.loads(text)
    return np.array(constants["means"], dtype=float), np.array(constants["stds"], dtype=float)


def normalise(magpie: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale Magpie fingerprints (n, 132) to CDVAE's units; what is NaN there becomes 0."""
    means, stds = cdvae_constants()
    scaled = (magpie - means) / stds
    return np.where(np.isnan(scaled), 0.0, scaled)
