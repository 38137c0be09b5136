"""Volumes of crystals whose structure is known but for its scale: a small learned network.

Composition alone does not say how dense a structure is, and a template's own volume does not say
how much smaller low-spin cobalt is than chromium. The network sees both: what each slot's element
is, what the compound is made of otherwise, and which elements surround it at which distances, in
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

TEMPLATE_VOLUME = 0.9
"""Weight of the supporting entries' mean log-volume, relative to what is usual for their elements;
0 takes what is usual for the elements of the proposal."""
CENTRES = np.arange(0.5, 1.951, 0.1)
WIDTH = 0.1
"""Of the Gaussians that distances are counted in, in units of (V/N)^(1/3)."""


@dataclass(frozen=True)
class VolumeNetwork:
    """One trained network.

    Attributes:
        table: (119, d) what is known of each element.
        neighbours: (119, m) what is known of it as a neighbour.
        layers: from a slot's inputs and surroundings to the logarithm of its atoms' volume in Å³.
    """

    table: NDArray[np.float32]
    neighbours: NDArray[np.float32]
    layers: Layers

    def volumes(
        self, elements: NDArray[np.int64], counts: Counts, around: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """(B,) cell volumes in Å³.

        Args:
            elements: (B, k) atomic numbers.
            counts: atoms of the k slots.
            around: (B, k, k, R) from `surroundings_of`.
        """
        near = np.einsum("bijr,bjm->birm", around, self.neighbours[elements])
        inputs = species_inputs(self.table, elements, counts)[1]
        inputs = np.concatenate([inputs, near.reshape(*near.shape[:2], -1)], axis=-1)
        each = np.exp(apply_layers(self.layers, inputs)[..., 0].astype(np.float64))
        volumes: NDArray[np.float64] = each @ np.array(counts, dtype=np.float64)
        return volumes


@dataclass(frozen=True)
class VolumeNetworks:
    """Several networks, whose logarithms of volumes are averaged."""

    networks: tuple[VolumeNetwork, ...]

    def log_volumes(
        self, elements: NDArray[np.int64], counts: Counts, around: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """(B,) of the cells of crystals with the same counts, in ln Å³; see `volumes`."""
        each = [network.volumes(elements, counts, around) for network in self.networks]
        found: NDArray[np.float64] = np.mean(np.log(each), axis=0)
        return found


def radial_histograms(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], counts: Counts
) -> NDArray[np.float32]:
    """(k, k, R) neighbours by slots and distance of a crystal whose atoms are sorted by slot."""
    from crysgen.retrieval.scoring._local_environments import radial_histogram

    species = np.repeat(np.arange(len(counts)), counts)
    cell = np.ascontiguousarray(lattice, dtype=np.float64)
    frac = np.ascontiguousarray(frac_coords, dtype=np.float64)
    found: NDArray[np.float64] = radial_histogram(cell, frac, species, len(counts), CENTRES, WIDTH)
    return found.astype(np.float32)


@lru_cache(maxsize=4)
def load_volume_networks(path: str | Path | None = None) -> VolumeNetworks:
    """The shipped networks, or those in a file.

    Raises:
        InputError: if the file holds none.
    """
    arrays, names = stored_networks(path, SHIPPED)
    try:
        return VolumeNetworks(tuple(_network(arrays, f"{name}/") for name in names))
    except KeyError as error:
        raise InputError(f"{path} holds no networks for volumes: {error}.") from error


def _network(arrays: dict[str, NDArray[np.float32]], prefix: str) -> VolumeNetwork:
    layers = layers_of(arrays, f"{prefix}packing")
    return VolumeNetwork(arrays[f"{prefix}table"], arrays[f"{prefix}near"], layers)
