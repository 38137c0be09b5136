"""The folder of a training run: tensors as safetensors, numbers as JSON, history as CSV.

Both trainings of this project (energies, generators) keep their state so. A checkpoint is several
files named after its step and a state file that names the step; the state is written last, and the
files of the step before go after that, so that a run killed at any moment has a whole checkpoint.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.json_files import read_json_object

STATE = "state.json"
_CHECKPOINT = re.compile(r".+-\d{8,}\.safetensors")


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
    old = {path for path in folder.glob("*.safetensors") if _CHECKPOINT.fullmatch(path.name)}
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
    """Read the tensors of a step by kind."""
    return {kind: load_file(_file(folder, kind, step), device) for kind in kinds}


def read_state(folder: Path) -> dict[str, Any]:
    """Read where a run stands.

    Raises:
        UserError: if the folder holds no run.
    """
    try:
        return read_json_object(folder / STATE)
    except (OSError, ValueError):
        raise UserError(f"{folder} holds no checkpoint to go on from.") from None


def append_row(path: Path, names: Sequence[str], row: Sequence[Any]) -> None:
    """Append a line to a CSV, whose header gains the names that it does not have yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    header: list[str] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header, rows = list(reader.fieldnames or ()), list(reader)
    if set(names) <= set(header):
        with path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, header).writerow(dict(zip(names, row, strict=True)))
        return
    header += [name for name in names if name not in header]
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows([*rows, dict(zip(names, row, strict=True))])


def _file(folder: Path, kind: str, step: int) -> Path:
    return folder / f"{kind}-{step:08d}.safetensors"
