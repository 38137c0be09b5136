"""Trains what `packing` holds, on a library's own crystals."""

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

EPOCHS, BATCH, RATE, HIDDEN, NEIGHBOUR_WIDTH = 40, 128, 3e-3, 96, 8
MOST_KINDS = 6


class TrainableVolumeNetwork(nn.Module):
    """What `Packing` holds, as something to be trained."""

    def __init__(self, elements: Tensor) -> None:
        super().__init__()
        self.register_buffer("elements", elements)
        self.linear = nn.Linear(elements.shape[1], TABLE_WIDTH, bias=False)
        self.own = nn.Parameter(torch.zeros(len(elements), TABLE_WIDTH))
        self.near = nn.Linear(TABLE_WIDTH, NEIGHBOUR_WIDTH)
        inputs = 3 * TABLE_WIDTH + 3 + NEIGHBOUR_WIDTH * len(CENTRES)
        self.packing = layers(inputs, HIDDEN, HIDDEN, 1)
        last = cast(nn.Linear, self.packing[-1])
        nn.init.constant_(last.bias, 3.0)
        nn.init.normal_(last.weight, std=0.01)

    @property
    def table(self) -> Tensor:
        """(119, d) what is known of each element, and what is learned."""
        return self.linear(cast(Tensor, self.elements)) + self.own

    def forward(self, elements: Tensor, counts: Tensor, around: Tensor) -> Tensor:
        """(B,) logarithms of volumes an atom; slots of no atoms are padding."""
        own = self.table[elements]
        near = torch.einsum("bijr,bjm->birm", around, self.near(own)).flatten(2)
        inputs = torch.cat([species_inputs(own, counts), near], -1)
        atomic = torch.exp(self.packing(inputs)[..., 0])
        return torch.log((atomic * counts).sum(1) / counts.sum(1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `load_packing` reads."""
        found = {"table": self.table, "near": self.near(self.table)}
        return as_arrays(found | weights_of(self, "packing"))


def padded(
    entries: Entries, chosen: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Elements (B, 6), counts (B, 6) and surroundings (B, 6, 6, R) of some entries."""
    elements = np.zeros((len(chosen), MOST_KINDS), dtype=np.int64)
    counts = np.zeros_like(elements)
    around = np.zeros((len(chosen), MOST_KINDS, MOST_KINDS, len(CENTRES)), dtype=np.float32)
    for row, i in enumerate(chosen.tolist()):
        k = int(entries.kinds[i])
        elements[row, :k], counts[row, :k] = entries.species(i), entries.counts(i)
        lattice = entries.lattices[i].astype(np.float64)
        around[row, :k, :k] = radial_histograms(lattice, entries.frac(i), entries.counts(i))
    return elements, counts, around


def train_volume_network(
    entries: Entries, seed: int = 0, epochs: int = EPOCHS
) -> TrainableVolumeNetwork:
    """Volumes of a library's crystals of up to six elements, from composition and structure."""
    torch.manual_seed(seed)
    chosen = np.flatnonzero(entries.kinds <= MOST_KINDS)
    elements, counts, around = (torch.tensor(a) for a in padded(entries, chosen))
    goals, weights = volume_goals(entries, chosen)
    model = TrainableVolumeNetwork(torch.tensor(element_table(), dtype=torch.float32))

    def predict(rows: Tensor) -> Tensor:
        kinds = int((counts[rows] > 0).sum(1).max())
        found: Tensor = model(
            elements[rows, :kinds], counts[rows, :kinds], around[rows, :kinds, :kinds]
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
        title="packing",
    )
    return model.eval()
