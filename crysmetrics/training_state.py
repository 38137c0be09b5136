"""The folder of a training run: tensors as safetensors, numbers as JSON, history as CSV.

Both trainings of this project (energies, generators) keep their state so. A checkpoint is several
files named after its step and a state file that names the step; the state is written last, and the
files of the step before go after that, so that a run killed at any moment has a whole checkpoint.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from crysmetrics.io.atomic import atomic_file

STATE = "state.json"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Write a whole state; the one before stays valid until this one is complete.

    Args:
        folder: of the run; made if it is not there.
        step: number of updates so far.
        tensors: by kind (`network`, `average`, ...), each a file of its own.
        state: whatever else is needed to go on, as JSON can hold it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = set(folder.glob("*-*.safetensors"))
    new = set()
    for kind, named in tensors.items():
        path = _file(folder, kind, step)
        with atomic_file(path) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in named.items()}, temporary)
        new.add(path)
    with atomic_file(folder / STATE) as temporary:
        temporary.write_text(json.dumps(state, indent=2) + "\n")
    for path in old - new:
        path.unlink()


def load_checkpoint(
    folder: Path, step: int, kinds: Iterable[str], device: str
) -> dict[str, dict[str, Tensor]]:
    """The tensors of a step by kind."""
    return {kind: load_file(_file(folder, kind, step), device) for kind in kinds}


def append_row(path: Path, names: Sequence[str], row: Sequence[Any]) -> None:
    """A line of a CSV, which begins with the names of its columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(names)
        writer.writerow(row)


def _file(folder: Path, kind: str, step: int) -> Path:
    return folder / f"{kind}-{step:08d}.safetensors"
