"""Predict volumes of crystals whose structure is known but for its scale, by small networks.

Composition alone does not say how dense a structure is, and a template's own volume does not say
how much smaller low-spin cobalt is than chromium. The networks see both: the element of each
species, what else the compound is made of, and which elements surround it at which distances, in
units of (V/N)^(1/3).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts
from crysgen.retrieval.scoring.similarity import (
    Layers,
    apply_layers,
    layers_of,
    species_inputs,
    stored_networks,
)
from crysmetrics.errors import InputError

SHIPPED = "volume.npz"
"""Name of the shipped networks."""

TEMPLATE_VOLUME = 0.9
"""Weight of the supporting entries' mean log-volume, relative to what is usual for their elements;
0 takes what is usual for the elements of the proposal."""
CENTRES = np.arange(0.5, 1.951, 0.1)
"""Centres of the Gaussians of radial histograms, in units of (V/N)^(1/3)."""
WIDTH = 0.1
"""Width of these Gaussians in the same units."""


@dataclass(frozen=True)
class VolumeNetwork:
    """One trained network for volumes.

    Attributes:
        table: (119, d) features of each element.
        neighbours: (119, m) features of each element as a neighbour.
        layers: from a species' inputs and neighbours to the log-volume of its atoms, in ln Å³.
    """

    table: NDArray[np.float32]
    neighbours: NDArray[np.float32]
    layers: Layers

    def volumes(
        self, elements: NDArray[np.int64], counts: Counts, histograms: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Predict cell volumes (B,) in Å³.

        Args:
            elements: (B, k) atomic numbers.
            counts: atoms of the k species.
            histograms: (B, k, k, R) from `radial_histograms`.
        """
        near = np.einsum("bijr,bjm->birm", histograms, self.neighbours[elements])
        inputs = species_inputs(self.table, elements, counts)[1]
        inputs = np.concatenate([inputs, near.reshape(*near.shape[:2], -1)], axis=-1)
        each = np.exp(apply_layers(self.layers, inputs)[..., 0].astype(np.float64))
        volumes: NDArray[np.float64] = each @ np.array(counts, dtype=np.float64)
        return volumes


@dataclass(frozen=True)
class VolumeNetworks:
    """Several networks, whose log-volumes are averaged."""

    networks: tuple[VolumeNetwork, ...]

    def log_volumes(
        self, elements: NDArray[np.int64], counts: Counts, histograms: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Predict the cells' log-volumes (B,) in ln Å³; see `VolumeNetwork.volumes`."""
        each = [network.volumes(elements, counts, histograms) for network in self.networks]
        found: NDArray[np.float64] = np.mean(np.log(each), axis=0)
        return found


def radial_histograms(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], counts: Counts
) -> NDArray[np.float32]:
    """Count the neighbours of each species by distance, for atoms that are sorted by species.

    Returns:
        (k, k, R) neighbours of the second species around an atom of the first, as a mean over its
        atoms, in Gaussians at CENTRES.
    """
    from crysgen.retrieval.scoring._local_environments import radial_histogram

    species = np.repeat(np.arange(len(counts)), counts)
    cell = np.ascontiguousarray(lattice, dtype=np.float64)
    frac = np.ascontiguousarray(frac_coords, dtype=np.float64)
    found: NDArray[np.float64] = radial_histogram(cell, frac, species, len(counts), CENTRES, WIDTH)
    return found.astype(np.float32)


@lru_cache(maxsize=4)
def load_volume_networks(path: str | Path | None = None) -> VolumeNetworks:
    """Load the shipped networks, or those in a file.

    Raises:
        InputError: if the file holds no networks for volumes.
    """
    arrays, names = stored_networks(path, SHIPPED)
    try:
        return VolumeNetworks(tuple(_network(arrays, f"{name}/") for name in names))
    except KeyError as error:
        raise InputError(f"{path} holds no networks for volumes: {error}.") from error


def _network(arrays: dict[str, NDArray[np.float32]], prefix: str) -> VolumeNetwork:
    layers = layers_of(arrays, f"{prefix}packing")
    return VolumeNetwork(arrays[f"{prefix}table"], arrays[f"{prefix}near"], layers)
