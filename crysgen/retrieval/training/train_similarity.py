"""Train the networks of `similarity` and of `volume`:

`python -m crysgen.retrieval.training.train_similarity LIBRARY -o similarity.npz
--volumes volume.npz`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.entries import load_entries
from crysgen.retrieval.training import volume
from crysgen.retrieval.training.similarity import EPOCHS, train

METRICS = 3
"""Number of networks that are averaged."""


def main(given: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train the networks of the library.")
    parser.add_argument("library", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--volumes", type=Path, required=True, help="file for volumes' networks")
    parser.add_argument("--metrics", type=int, default=METRICS, help="networks to average")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--volume-epochs", type=int, default=volume.EPOCHS)
    parser.add_argument("--structure-volume-epochs", type=int, default=volume.EPOCHS)
    arguments = parser.parse_args(given)
    entries = load_entries(arguments.library)
    arrays = volume.train_composition_volumes(entries, 0, arguments.volume_epochs).arrays()
    for seed in range(arguments.metrics):
        found = train(entries, seed, arguments.epochs).arrays()
        arrays |= {f"{seed}/{name}": value for name, value in found.items()}
    save(arguments.output, arrays)
    volumes: dict[str, NDArray[Any]] = {}
    for seed in range(arguments.metrics):
        found = volume.train_volume_network(
            entries, seed, arguments.structure_volume_epochs
        ).arrays()
        volumes |= {f"{seed}/{name}": value for name, value in found.items()}
    save(arguments.volumes, volumes)


def save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write a file of networks, whole or not at all."""
    from crysmetrics.io.atomic import atomic_file

    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
