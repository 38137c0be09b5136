"""Train the networks of `similarity` and of `volume`:

`python -m crysgen.retrieval.training.train_similarity LIBRARY -o similarity.npz
--volumes volume.npz`
"""

from __future__ import annotations

import argparse
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

VOLUME_EPOCHS, VOLUME_BATCH, VOLUME_RATE, VOLUME_HIDDEN = 40, 128, 4e-3, 96
METRICS = 3
_MOST_KINDS = 6


class Volumes(nn.Module):
    """Volume of a cell from its composition: the sum of what each atom takes in its compound."""

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
        """(119, d) what is known of each element, and what is learned."""
        return self.linear(cast(Tensor, self.elements)) + self.own

    def forward(self, elements: Tensor, counts: Tensor) -> Tensor:
        """(B,) logarithms of volumes an atom, from (B, k) slots, padded by slots of no atoms."""
        atomic = torch.exp(self.volume(species_inputs(self.table[elements], counts))[..., 0])
        return torch.log((atomic * counts).sum(1) / counts.sum(1))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `load_similarity` reads."""
        return as_arrays({"volume_table": self.table} | weights_of(self, "volume"))


def train_volumes(entries: Entries, seed: int = 0, epochs: int = VOLUME_EPOCHS) -> Volumes:
    """Volumes trained on a library's crystals of up to six elements."""
    torch.manual_seed(seed)
    chosen = np.flatnonzero(entries.kinds <= _MOST_KINDS)
    elements = np.zeros((len(chosen), _MOST_KINDS), dtype=np.int64)
    counts = np.zeros_like(elements)
    for row, i in enumerate(chosen.tolist()):
        kinds = int(entries.kinds[i])
        elements[row, :kinds], counts[row, :kinds] = entries.species(i), entries.counts(i)
    goals, weights = volume_goals(entries, chosen)
    inputs = torch.tensor(elements), torch.tensor(counts)
    model = Volumes(torch.tensor(element_table(), dtype=torch.float32))
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the networks of the library.")
    parser.add_argument("library", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--volumes", type=Path, required=True, help="file for volumes' networks")
    parser.add_argument("--metrics", type=int, default=METRICS, help="networks to average")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--volume-epochs", type=int, default=VOLUME_EPOCHS)
    parser.add_argument("--packing-epochs", type=int, default=STRUCTURE_VOLUME_EPOCHS)
    arguments = parser.parse_args()
    entries = load_entries(arguments.library)
    arrays = train_volumes(entries, 0, arguments.volume_epochs).arrays()
    for seed in range(arguments.metrics):
        found = train(entries, seed, arguments.epochs).arrays()
        arrays |= {f"{seed}/{name}": value for name, value in found.items()}
    save(arguments.output, arrays)
    packing: dict[str, NDArray[Any]] = {}
    for seed in range(arguments.metrics):
        found = train_volume_network(entries, seed, arguments.packing_epochs).arrays()
        packing |= {f"{seed}/{name}": value for name, value in found.items()}
    save(arguments.volumes, packing)


def save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a file of networks, whole or not at all."""
    from crysmetrics.io.atomic import atomic_file

    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
