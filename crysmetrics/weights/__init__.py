"""Network weights that come with the package, each with a model card.

`NAME.safetensors` holds tensors only; `NAME.json` says where they come from, how well they do and
what the file's SHA-256 is. A file never changes: better weights get a new name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crysmetrics.errors import UserError

FOLDER = Path(__file__).parent


def shipped_weights(folder: Path = FOLDER) -> tuple[str, ...]:
    """List the names of the weights that are here."""
    return tuple(sorted(path.stem for path in folder.glob("*.safetensors")))


def weights_path(name: str, folder: Path = FOLDER) -> Path:
    """Return the file of these weights.

    Raises:
        UserError: if there are none of this name.
    """
    path = folder / f"{name}.safetensors"
    if Path(name).name != name or not path.is_file():
        known = ", ".join(shipped_weights(folder)) or "none"
        raise UserError(f"There are no weights {name!r} in this installation; known are: {known}.")
    return path


def model_card(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Read the card of these weights.

    Raises:
        UserError: if there are none of this name.
    """
    card: dict[str, Any] = json.loads(weights_path(name, folder).with_suffix(".json").read_text())
    return card


_RETIRED = {"12910397": "alignn-mp-v0"}
"""Weights that earlier versions came with, by the first digits of their SHA-256."""


def weights_name(digits: str, folder: Path = FOLDER) -> str | None:
    """Name weights, shipped now or before, by the first eight digits of their SHA-256."""
    shipped = {model_card(name, folder)["sha256"][:8]: name for name in shipped_weights(folder)}
    return {**_RETIRED, **shipped}.get(digits[:8])
