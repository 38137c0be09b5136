"""Train the networks of `similarity` and of `volume`:

`python -m crysgen.retrieval.training.train_similarity LIBRARY -o similarity.npz
--volumes volume.npz`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crysgen.retrieval.library.entries import Entries, load_entries
from crysgen.retrieval.scoring.plausibility import layers
from crysgen.retrieval.training.element_table import element_table
from crysgen.retrieval.training.similarity import (
    EPOCHS,
    TABLE_WIDTH,
    as_arrays,
    species_inputs,
    train,
    weights_of,
)
from crysgen.retrieval.training.volume import EPOCHS as STRUCTURE_VOLUME_EPOCHS
from crysgen.retrieval.training.volume import train_volume_network
from crysgen.retrieval.training.volume_fit import fit_volumes, volume_goals

VOLUME_EPOCHS = 40
"""Number of passes over the entries, for volumes by composition."""
VOLUME_BATCH = 128
"""Number of entries of a step, for these."""
VOLUME_RATE = 4e-3
"""Highest learning rate, for these."""
VOLUME_HIDDEN = 96
"""Width of hidden layers, of these."""
METRICS = 3
"""Number of networks that are averaged."""
_MOST_ELEMENTS = 6


class CompositionVolumes(nn.Module):
    """Network that predicts volumes from compositions, as sums over atoms in their compound."""

    def __init__(self, elements: Tensor) -> None:
        super().__init__()
        self.register_buffer("elements", elements)
        self.linear = nn.Linear(elements.shape[1], TABLE_WIDTH, bias=False)
        self.own = nn.Parameter(torch.zeros(len(elements), TABLE_WIDTH))
        self.volume = layers(3 * TABLE_WIDTH + 3, VOLUME_HIDDEN, VOLUME_HIDDEN, 1)
        last = cast(nn.Linear, self.volume[-1])
        nn.init.constant_(last.bias, 3.0)
        nn.init.normal_(last.weight, std=0.01)

    @property
    def table(self) -> Tensor:
        """(119, d) features of each element: known properties, and what is learned."""
        return self.linear(cast(Tensor, self.elements)) + self.own

    def forward(self, elements: Tensor, counts: Tensor) -> Tensor:
        """Predict log-volumes an atom (B,) of species (B, k); species of no atoms are padding."""
        atomic = torch.exp(self.volume(species_inputs(self.table[elements], counts))[..., 0])
        return torch.log((atomic * counts).sum(1) / counts.sum(1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Collect what `load_similarity` reads."""
        return as_arrays({"volume_table": self.table} | weights_of(self.volume, "volume"))


def train_volumes(
    entries: Entries, seed: int = 0, epochs: int = VOLUME_EPOCHS
) -> CompositionVolumes:
    """Train volumes by composition on a library's crystals of up to six elements."""
    torch.manual_seed(seed)
    chosen = np.flatnonzero(entries.kinds <= _MOST_ELEMENTS)
    elements = np.zeros((len(chosen), _MOST_ELEMENTS), dtype=np.int64)
    counts = np.zeros_like(elements)
    for row, i in enumerate(chosen.tolist()):
        kinds = int(entries.kinds[i])
        elements[row, :kinds], counts[row, :kinds] = entries.species(i), entries.counts(i)
    goals, weights = volume_goals(entries, chosen)
    inputs = torch.tensor(elements), torch.tensor(counts)
    model = CompositionVolumes(torch.tensor(element_table(), dtype=torch.float32))
    fit_volumes(
        model,
        lambda rows: model(inputs[0][rows], inputs[1][rows]),
        goals,
        weights,
        epochs=epochs,
        batch_size=VOLUME_BATCH,
        rate=VOLUME_RATE,
        title="volumes",
    )
    return model.eval()


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the networks of the library.")
    parser.add_argument("library", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--volumes", type=Path, required=True, help="file for volumes' networks")
    parser.add_argument("--metrics", type=int, default=METRICS, help="networks to average")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--volume-epochs", type=int, default=VOLUME_EPOCHS)
    parser.add_argument("--structure-volume-epochs", type=int, default=STRUCTURE_VOLUME_EPOCHS)
    arguments = parser.parse_args(given)
    entries = load_entries(arguments.library)
    arrays = train_volumes(entries, 0, arguments.volume_epochs).arrays()
    for seed in range(arguments.metrics):
        found = train(entries, seed, arguments.epochs).arrays()
        arrays |= {f"{seed}/{name}": value for name, value in found.items()}
    save(arguments.output, arrays)
    volumes: dict[str, NDArray[Any]] = {}
    for seed in range(arguments.metrics):
        found = train_volume_network(entries, seed, arguments.structure_volume_epochs).arrays()
        volumes |= {f"{seed}/{name}": value for name, value in found.items()}
    save(arguments.volumes, volumes)


def save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a file of networks, whole or not at all."""
    from crysmetrics.io.atomic import atomic_file

    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
