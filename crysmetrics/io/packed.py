"""Crystals in one `.npz`: bit for bit, failures included, without pickled objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.errors import InputError, UserError
from crysmetrics.io.atomic import atomic_file

if TYPE_CHECKING:
    from crysmetrics.io.crystals import Crystals

_FORMAT = "crysmetrics-crystals/1"


def save(crystals: Crystals, path: str | Path) -> None:
    """Write Crystals; the file appears under its name only when it is complete.

    Raises:
        UserError: if a property is of a type that can't be stored, or the path is no good.
    """
    for name, values in crystals.properties.items():
        if values.dtype.kind not in "biufU":
            raise UserError(f"Property {name!r} of type {values.dtype} can't be stored.")
    text = {
        "format": _FORMAT,
        # JSON keeps every string as it is; NumPy would drop trailing NULs, a zip entry more.
        "ids": crystals.ids,
        "failures": crystals.failures,
        "properties": list(crystals.properties),
    }
    arrays: dict[str, Any] = {
        "atomic_numbers": crystals.atomic_numbers.astype(np.uint8),
        "frac_coords": crystals.frac_coords,
        "lattices": crystals.lattices,
        "num_atoms": crystals.num_atoms,
        "text": np.frombuffer(json.dumps(text).encode(), dtype=np.uint8),
    }
    # Numbered, since not every property's name could be a member's name in the file.
    arrays |= {f"property_{k}": v for k, v in enumerate(crystals.properties.values())}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load(path: str | Path, kind: type[Crystals]) -> Crystals:
    """Read what `save` wrote.

    Args:
        path: of the file.
        kind: `Crystals`, which knows this module and not the other way round.

    Raises:
        InputError: if the file is not one of ours, or is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            text = json.loads(data["text"].tobytes())
            if text["format"] != _FORMAT:
                raise ValueError(f"its format is {text['format']!r}, not {_FORMAT!r}")
            names = text["properties"]
            return kind(
                data["atomic_numbers"],
                data["frac_coords"],
                data["lattices"],
                data["num_atoms"],
                text["ids"],
                {name: data[f"property_{k}"] for k, name in enumerate(names)},
                text["failures"],
            )
    except PermissionError as error:
        raise InputError(f"{path} can't be read ({error.strerror}).") from error
    except Exception as error:  # damage can raise nearly anything in zipfile, zlib, NumPy and json
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{path} is no packed set of crystals ({reason}).") from error
