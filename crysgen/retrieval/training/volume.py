"""Train networks of volumes on a library's own crystals: by composition, and by structure as well.

Those by composition belong to `scoring.similarity`, the others are `scoring.volume`'s.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crysgen.retrieval.library.entries import Entries
from crysgen.retrieval.scoring.plausibility import layers
from crysgen.retrieval.scoring.volume import CENTRES, radial_histograms
from crysgen.retrieval.training.element_table import element_table
from crysgen.retrieval.training.similarity import (
    TABLE_WIDTH,
    ElementFeatures,
    as_arrays,
    species_inputs,
    weights_of,
)
from crysgen.retrieval.training.volume_fit import fit_volumes, volume_goals

EPOCHS = 40
"""Number of passes over the entries."""
BATCH = 128
"""Number of entries of a step."""
RATE = 3e-3
"""Highest learning rate, of volumes by composition and structure."""
COMPOSITION_RATE = 4e-3
"""Highest learning rate, of volumes by composition."""
HIDDEN = 96
"""Width of hidden layers."""
NEIGHBOUR_WIDTH = 8
"""Width of the features of elements as neighbours."""
MAX_ELEMENTS = 6
"""Number of elements beyond which entries are left out."""


class CompositionVolumes(ElementFeatures):
    """Network that predicts volumes from compositions, as sums over atoms in their compound."""

    def __init__(self, elements: Tensor) -> None:
        super().__init__(elements)
        self.volume = _volume_layers(3 * TABLE_WIDTH + 3)

    def forward(self, elements: Tensor, counts: Tensor) -> Tensor:
        """Predict log-volumes an atom (B,) of species (B, k); species of no atoms are padding."""
        return _log_mean_volume(self.volume, species_inputs(self.table[elements], counts), counts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Collect what `load_similarity` reads."""
        return as_arrays({"volume_table": self.table} | weights_of(self.volume, "volume"))


class TrainableVolumeNetwork(ElementFeatures):
    """Trainable form of `scoring.volume.VolumeNetwork`."""

    def __init__(self, elements: Tensor) -> None:
        super().__init__(elements)
        self.near = nn.Linear(TABLE_WIDTH, NEIGHBOUR_WIDTH)
        self.volume = _volume_layers(3 * TABLE_WIDTH + 3 + NEIGHBOUR_WIDTH * len(CENTRES))

    def forward(self, elements: Tensor, counts: Tensor, histograms: Tensor) -> Tensor:
        """Predict log-volumes an atom (B,); species of no atoms are padding."""
        own = self.table[elements]
        near = torch.einsum("bijr,bjm->birm", histograms, self.near(own)).flatten(2)
        inputs = torch.cat([species_inputs(own, counts), near], -1)
        return _log_mean_volume(self.volume, inputs, counts)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Collect what `load_volume_networks` reads."""
        found = {"table": self.table, "near": self.near(self.table)}
        return as_arrays(found | weights_of(self.volume, "packing"))


def _volume_layers(inputs: int) -> nn.Sequential:
    """Make layers from a species' inputs to the log-volume of its atoms, about 20 Å³ at first."""
    made = layers(inputs, HIDDEN, HIDDEN, 1)
    last = cast(nn.Linear, made[-1])
    nn.init.constant_(last.bias, 3.0)
    nn.init.normal_(last.weight, std=0.01)
    return made


def _log_mean_volume(volume: nn.Module, inputs: Tensor, counts: Tensor) -> Tensor:
    """Average volumes over atoms: (B,) logarithms, of inputs (B, k, f) and counts (B, k)."""
    atomic = torch.exp(volume(inputs)[..., 0])
    return torch.log((atomic * counts).sum(1) / counts.sum(1))


def padded_species(
    entries: Entries, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Collect elements (B, 6) and counts (B, 6) of some entries; without atoms, padding."""
    elements = np.zeros((len(chosen), MAX_ELEMENTS), dtype=np.int64)
    counts = np.zeros_like(elements)
    for row, i in enumerate(chosen.tolist()):
        k = int(entries.kinds[i])
        elements[row, :k], counts[row, :k] = entries.species(i), entries.counts(i)
    return elements, counts


def padded_histograms(entries: Entries, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Collect radial histograms (B, 6, 6, R) of some entries."""
    shape = (len(chosen), MAX_ELEMENTS, MAX_ELEMENTS, len(CENTRES))
    histograms = np.zeros(shape, dtype=np.float32)
    for row, i in enumerate(chosen.tolist()):
        k = int(entries.kinds[i])
        lattice = entries.lattices[i].astype(np.float64)
        histograms[row, :k, :k] = radial_histograms(lattice, entries.frac(i), entries.counts(i))
    return histograms


def train_composition_volumes(
    entries: Entries, seed: int = 0, epochs: int = EPOCHS
) -> CompositionVolumes:
    """Train volumes by composition on a library's crystals of up to six elements."""
    torch.manual_seed(seed)
    chosen = np.flatnonzero(entries.kinds <= MAX_ELEMENTS)
    elements, counts = (torch.tensor(a) for a in padded_species(entries, chosen))
    goals, weights = volume_goals(entries, chosen)
    model = CompositionVolumes(torch.tensor(element_table(), dtype=torch.float32))
    fit_volumes(
        model,
        lambda rows: model(elements[rows], counts[rows]),
        goals,
        weights,
        epochs=epochs,
        batch_size=BATCH,
        rate=COMPOSITION_RATE,
        title="volumes",
    )
    return model.eval()


def train_volume_network(
    entries: Entries, seed: int = 0, epochs: int = EPOCHS
) -> TrainableVolumeNetwork:
    """Train volumes by composition and structure on crystals of up to six elements."""
    torch.manual_seed(seed)
    chosen = np.flatnonzero(entries.kinds <= MAX_ELEMENTS)
    elements, counts = (torch.tensor(a) for a in padded_species(entries, chosen))
    histograms = torch.tensor(padded_histograms(entries, chosen))
    goals, weights = volume_goals(entries, chosen)
    model = TrainableVolumeNetwork(torch.tensor(element_table(), dtype=torch.float32))

    def predict(rows: Tensor) -> Tensor:
        kinds = int((counts[rows] > 0).sum(1).max())
        found: Tensor = model(
            elements[rows, :kinds], counts[rows, :kinds], histograms[rows, :kinds, :kinds]
        )
        return found

    fit_volumes(
        model,
        predict,
        goals,
        weights,
        epochs=epochs,
        batch_size=BATCH,
        rate=RATE,
        title="volumes of structures",
    )
    return model.eval()
