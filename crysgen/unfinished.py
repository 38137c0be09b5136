"""Keep batches that a model is still sampling, so that a killed run goes on within them.

A batch takes as long as the machine lets it, and its plan must not depend on that: another plan
would round otherwise. So the state between two steps is kept, from which the rest follows exactly.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.io.atomic import atomic_file

if TYPE_CHECKING:
    from crysgen.requests import Draw

SECONDS = 2.5
"""Time after which the state of a batch is kept again."""


class UnfinishedBatches:
    """Store of the states of batches of one method, in a folder.

    Args:
        folder: of the unfinished run.
        method: name of the method.
    """

    def __init__(self, folder: Path, method: str) -> None:
        self._folder, self._method = folder, method

    def _file(self, piece: str) -> Path:
        return self._folder / f"state-{self._method}-{piece}.npz"

    def save(self, draws: Sequence[Draw], steps: int | None, done: int, state: Any) -> None:
        """Keep the state of a batch after so many steps; it is on disk when this returns."""
        from crysgen.graphs.trees import tensors_of

        arrays = (tensor.cpu().numpy() for tensor in tensors_of(state))
        tensors: dict[str, Any] = {f"tensor_{k}": array for k, array in enumerate(arrays)}
        with (
            atomic_file(self._file(str(draws[0].number))) as temporary,
            temporary.open("wb") as file,
        ):
            np.savez(file, batch=np.array(_digest(draws, steps)), done=np.array(done), **tensors)

    def load(self, draws: Sequence[Draw], steps: int | None, state: Any) -> tuple[int, Any]:
        """Return how many steps of a batch are done, and the state after them.

        Args:
            draws: of the batch.
            steps: that it takes.
            state: from which it begins; it is returned with 0 if nothing of use is kept.
        """
        import torch

        from crysgen.graphs.trees import map_tensors, tensors_of

        tensors = tensors_of(state)
        names = [f"tensor_{k}" for k in range(len(tensors))]
        try:
            with np.load(self._file(str(draws[0].number)), allow_pickle=False) as data:
                if set(data.files) != {"batch", "done", *names}:
                    return 0, state
                batch, done = str(data["batch"]), int(data["done"])
                kept = [torch.from_numpy(data[name]) for name in names]
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
            return 0, state  # none, or damaged: the batch is made from its beginning
        fits = all(
            k.shape == t.shape and k.dtype == t.dtype for k, t in zip(kept, tensors, strict=True)
        )
        if batch != _digest(draws, steps) or not fits:
            return 0, state
        waiting = iter(kept)
        return done, map_tensors(lambda tensor: next(waiting).to(tensor.device), state)

    def drop(self, pieces: Sequence[str]) -> None:
        """Take away what was kept of batches that are complete."""
        for piece in pieces:
            self._file(piece).unlink(missing_ok=True)


def _digest(draws: Sequence[Draw], steps: int | None) -> str:
    """Hash what decides the states of a batch, beside the model that the run is of."""
    text = repr(([(draw.number, draw.seed, draw.target) for draw in draws], steps))
    return hashlib.sha256(text.encode()).hexdigest()
