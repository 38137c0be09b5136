"""Named references: sets of structures with their features, ready to compare against.

A reference is one `.npz` with the packed structures and, for each extractor, its features and
hash. Shipped ones lie in this folder; `crysmetrics reference build` adds a user's own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import InputError, UserError
from crysmetrics.features.extractor import Features, Run
from crysmetrics.features.registry import get_extractor
from crysmetrics.features.sample import Sample
from crysmetrics.folders import data_folder
from crysmetrics.io import Crystals
from crysmetrics.io.atomic import atomic_file, refuse_existing

FORMAT = "crysmetrics-reference/1"
HALF_PRECISION_LIMIT = 1e-3
"""Largest change of a feature, in standard deviations of its column, that half precision may
make; Fréchet distances then keep all the digits that are shown."""


@dataclass(frozen=True)
class ReferenceInfo:
    """One line of `crysmetrics reference list`."""

    name: str
    path: Path
    structures: int
    features: tuple[str, ...]
    source: str


def user_folder() -> Path:
    """Return where a user's references are: `$CRYSMETRICS_REFERENCES`, or the data folder."""
    given = os.environ.get("CRYSMETRICS_REFERENCES")
    return Path(given) if given else data_folder("crysmetrics") / "references"


def find(name: str) -> Path | None:
    """Find the file of a named reference, or None; a user's own goes before a shipped one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        return None
    for folder in (user_folder(), Path(__file__).parent):
        path = folder / f"{name}.npz"
        if path.is_file():
            return path
    return None


def names() -> list[str]:
    """List the names of all references."""
    found = {p.stem for f in (user_folder(), Path(__file__).parent) for p in f.glob("*.npz")}
    return sorted(found)


def listing() -> list[ReferenceInfo]:
    """Describe each reference."""
    infos = []
    for name in names():
        path = find(name)
        if path is None:
            continue
        with _open(path) as data:
            meta = _meta(data)
            count = len(data["num_atoms"])
        infos.append(ReferenceInfo(name, path, count, tuple(meta["features"]), meta["source"]))
    return infos


def build(
    name: str,
    sample: Sample,
    features: Sequence[str],
    *,
    source: str = "",
    folder: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Compute features of a set and store both under a name.

    Args:
        name: letters, digits, `.`, `_` and `-`.
        sample: the structures; failures are left out, as in any reference.
        features: names of extractors.
        source: where the structures come from, and under which licence.
        folder: the user's own references if not given.
        overwrite: replace a reference of this name.

    Raises:
        UserError: if the name is none, or taken.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{name!r} is no name for a reference: use letters, digits, '.', '_', '-'.")
    path = (folder or user_folder()) / f"{name}.npz"
    refuse_existing(path, overwrite)
    crystals = sample.crystals
    arrays: dict[str, Any] = {
        "atomic_numbers": crystals.atomic_numbers.astype(np.uint8),
        "frac_coords": crystals.frac_coords,
        "lattices": crystals.lattices,
        "num_atoms": crystals.num_atoms.astype(np.int32),
    }
    meta: dict[str, Any] = {"format": FORMAT, "source": source, "ids": crystals.ids, "features": {}}
    for feature in features:
        found = sample.features(feature)
        arrays[f"feature.{feature}"] = smallest_dtype(found.values)
        meta["features"][feature] = {
            "hash": sample.extractors[feature].hash,
            "failures": {str(i): reason for i, reason in found.failures.items()},
        }
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def load(name: str, path: Path, role: str = "ref", run: Run | None = None) -> Sample:
    """Load a named reference as a sample.

    Features made by an extractor that has changed since are not used; they are computed anew.

    Args:
        name: as the user gave it.
        path: from `find`.
        role: `gen` or `ref`.
        run: how features are computed that the file does not hold.

    Raises:
        InputError: if the file is damaged.
    """
    with _open(path) as data:
        meta = _meta(data)
        crystals = Crystals(
            data["atomic_numbers"],
            data["frac_coords"],
            data["lattices"],
            data["num_atoms"],
            tuple(meta["ids"]),
        )
        stored = {
            feature: Features(
                data[f"feature.{feature}"].astype(np.float64),
                {int(i): reason for i, reason in entry["failures"].items()},
            )
            for feature, entry in meta["features"].items()
        }
    sample = Sample(crystals, role, name, run)
    for feature, found in stored.items():
        extractor = get_extractor(feature, sample.run)
        if extractor.hash == meta["features"][feature]["hash"]:
            sample.preset(extractor, found)
    return sample


def smallest_dtype(values: NDArray[np.float64]) -> NDArray[Any]:
    """Convert to half precision where that changes no digit that is shown, else to single."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    scale = np.nanstd(values, axis=0)
    change = np.abs(half.astype(np.float64) - values)
    if np.nanmax(change / np.where(scale > 0, scale, 1), initial=0.0) < HALF_PRECISION_LIMIT:
        return half
    return values.astype(np.float32)


def _open(path: Path) -> Any:
    import zipfile

    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"The reference {path} is damaged ({error}).") from error


def _meta(data: Any) -> dict[str, Any]:
    try:
        meta: dict[str, Any] = json.loads(data["meta"].tobytes())
    except (KeyError, ValueError) as error:
        raise InputError(f"A reference file is damaged or of another kind ({error}).") from error
    if meta.get("format") != FORMAT:
        raise InputError(f"A reference file has format {meta.get('format')!r}, not {FORMAT!r}.")
    return meta
