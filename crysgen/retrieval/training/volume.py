"""Train the networks of `scoring.volume` on a library's own crystals."""

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
"""Highest learning rate."""
HIDDEN = 96
"""Width of hidden layers."""
NEIGHBOUR_WIDTH = 8
"""Width of the features of elements as neighbours."""
MAX_ELEMENTS = 6
"""Number of elements beyond which entries are left out."""


class TrainableVolumeNetwork(nn.Module):
    """Trainable form of `scoring.volume.VolumeNetwork`."""

    def __init__(self, elements: Tensor) -> None:
        super().__init__()
        self.register_buffer("elements", elements)
        self.linear = nn.Linear(elements.shape[1], TABLE_WIDTH, bias=False)
        self.own = nn.Parameter(torch.zeros(len(elements), TABLE_WIDTH))
        self.near = nn.Linear(TABLE_WIDTH, NEIGHBOUR_WIDTH)
        inputs = 3 * TABLE_WIDTH + 3 + NEIGHBOUR_WIDTH * len(CENTRES)
        self.volume = layers(inputs, HIDDEN, HIDDEN, 1)
        last = cast(nn.Linear, self.volume[-1])
        nn.init.constant_(last.bias, 3.0)
        nn.init.normal_(last.weight, std=0.01)

    @property
    def table(self) -> Tensor:
        """(119, d) features of each element: known properties, and what is learned."""
        return self.linear(cast(Tensor, self.elements)) + self.own

    def forward(self, elements: Tensor, counts: Tensor, histograms: Tensor) -> Tensor:
        """Predict log-volumes an atom (B,); species of no atoms are padding."""
        own = self.table[elements]
        near = torch.einsum("bijr,bjm->birm", histograms, self.near(own)).flatten(2)
        inputs = torch.cat([species_inputs(own, counts), near], -1)
        atomic = torch.exp(self.volume(inputs)[..., 0])
        return torch.log((atomic * counts).sum(1) / counts.sum(1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Collect what `load_volume_networks` reads."""
        found = {"table": self.table, "near": self.near(self.table)}
        return as_arrays(found | weights_of(self.volume, "packing"))


def padded(
    entries: Entries, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Collect elements (B, 6), counts (B, 6) and histograms (B, 6, 6, R) of some entries."""
    elements = np.zeros((len(chosen), MAX_ELEMENTS), dtype=np.int64)
    counts = np.zeros_like(elements)
    histograms = np.zeros((len(chosen), MAX_ELEMENTS, MAX_ELEMENTS, len(CENTRES)), dtype=np.float32)
    for row, i in enumerate(chosen.tolist()):
        k = int(entries.kinds[i])
        elements[row, :k], counts[row, :k] = entries.species(i), entries.counts(i)
        lattice = entries.lattices[i].astype(np.float64)
        histograms[row, :k, :k] = radial_histograms(lattice, entries.frac(i), entries.counts(i))
    return elements, counts, histograms


def train_volume_network(
    entries: Entries, seed: int = 0, epochs: int = EPOCHS
) -> TrainableVolumeNetwork:
    """Train volumes by composition and structure on crystals of up to six elements."""
    torch.manual_seed(seed)
    chosen = np.flatnonzero(entries.kinds <= MAX_ELEMENTS)
    elements, counts, histograms = (torch.tensor(a) for a in padded(entries, chosen))
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
