"""Crystals in one `.npz`: bit for bit, failures included, without pickled objects."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.errors import InputError, UserError
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.json_text import MAX_MEMORY, too_large
from crysmetrics.io.limits import MAX_TOTAL_BYTES, unpacked_limit
from crysmetrics.io.parsed import one_line
from crysmetrics.io.unpacking import TooLarge

if TYPE_CHECKING:
    from crysmetrics.io.crystals import Crystals

_FORMAT = "crysmetrics-crystals/1"

_MAX_RATIO = 20
"""Largest ratio of unpacked to packed bytes; coordinates reach 4."""
_MIN_LIMIT = 256 * 1024**2
"""Bytes that any file may unpack to: coordinates of ideal positions compress very well."""

_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


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
        _check_sizes(Path(path))
        with np.load(path, allow_pickle=False) as data:
            text = _text(data["text"], Path(path).stat().st_size)
            return kind(
                data["atomic_numbers"],
                data["frac_coords"],
                data["lattices"],
                data["num_atoms"],
                text["ids"],
                {name: data[f"property_{k}"] for k, name in enumerate(text["properties"])},
                text["failures"],
            )
    except PermissionError as error:
        raise InputError(f"{path} can't be read ({error.strerror}).") from error
    except Exception as error:  # damage can raise nearly anything in zipfile, zlib, NumPy and json
        reason = one_line(error)
        raise InputError(f"{path} is no packed set of crystals ({reason}).") from error


def _check_sizes(path: Path) -> None:
    """Refuse arrays that do not fit together, or unpack to more than they may, by their headers.

    Raises:
        ValueError: with the reason.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        limit = min(MAX_TOTAL_BYTES, max(_MIN_LIMIT, _MAX_RATIO * path.stat().st_size))
        if sum(info.file_size for info in infos) > limit:
            raise TooLarge(f"it unpacks to more than {limit / 1e6:.0f} MB")
        for info in infos:
            if info.filename == "text.npy" and info.file_size > unpacked_limit(
                info.compress_size, MAX_TOTAL_BYTES
            ):
                raise TooLarge(f"its text unpacks to {info.file_size / 1e6:.0f} MB")
            name = info.filename.removesuffix(".npy")
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                if version not in _HEADERS:
                    raise ValueError(f"{name} has NumPy's format {version}")
                shape, _, dtype = _HEADERS[version](file)
                if dtype.kind not in "biufU":
                    raise ValueError(f"{name} is of type {dtype}")
                if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
                    raise ValueError(f"{name} has another size than its header says")
            shapes[name] = shape
    atoms = shapes.get("atomic_numbers", ())
    structures = shapes.get("num_atoms", ())
    wanted = {
        "text": shapes.get("text", ())[:1],
        "atomic_numbers": atoms[:1],
        "frac_coords": (*atoms[:1], 3),
        "num_atoms": structures[:1],
        "lattices": (*structures[:1], 3, 3),
    }
    for name, shape in wanted.items():
        if name not in shapes:
            raise ValueError(f"it lacks {name}")
        if shapes[name] != shape:
            raise ValueError(f"{name} is of shape {shapes[name]}, not {shape}")
    for name, shape in shapes.items():
        if name.startswith("property_") and shape != structures:
            raise ValueError(f"{name} is of shape {shape}, not {structures}")


def _text(array: np.ndarray[Any, Any], packed: int) -> dict[str, Any]:
    """Read ids, names of properties and failures.

    Raises:
        ValueError: with the reason, if they are not what `save` writes.
    """
    content = array.tobytes().decode()
    if too_large(content, max(MAX_MEMORY, _MAX_RATIO * packed)):
        raise TooLarge("its ids and failures take more memory than they may")
    text = json.loads(content)
    if not isinstance(text, dict) or text.get("format") != _FORMAT:
        found = text.get("format") if isinstance(text, dict) else None
        raise ValueError(f"its format is {found!r}, not {_FORMAT!r}")
    for key in ("ids", "properties"):
        if not isinstance(text[key], list) or not all(isinstance(n, str) for n in text[key]):
            raise ValueError(f"its {key} are not all texts")
    for failure in text["failures"]:
        if not isinstance(failure, list) or [type(part) for part in failure] != [str, str]:
            raise ValueError("its failures are not all pairs of texts")
    if len(set(text["properties"])) != len(text["properties"]):
        raise ValueError("two of its properties have one name")
    return text
