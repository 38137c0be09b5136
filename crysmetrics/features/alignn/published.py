"""NIST's published ALIGNN weights: where they lie, fetched once, checked ever after.

The addresses are those of alignn's list of its classic models (`alignn.deprecated.pretrained`),
which has no hashes: the hash of the first download is recorded beside it, and whatever has
another one later is refused. Of the archive nothing is unpacked to disk and nothing but tensors
is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from crysmetrics.errors import UserError
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.json_files import write_json
from crysmetrics.torch_files import load_tensors

if TYPE_CHECKING:
    from torch import Tensor

_FIGSHARE = "https://ndownloader.figshare.com/files/"
_RECORD = "published.json"
_TIMEOUT = 30.0  # seconds without a byte
_MAX_BYTES = 400 * 1024**2
"""Largest file that is taken from the network or out of an archive; a checkpoint has 50 MB."""
_CHUNK = 1024**2


class Published(NamedTuple):
    """A published model."""

    address: str
    predicts: str
    """Property and unit of its output."""
    gives_energy: bool = False
    """Whether that is a formation energy in eV/atom."""


PUBLISHED: Mapping[str, Published] = {
    "mp_e_form_alignn": Published(
        f"{_FIGSHARE}31458811", "formation energy, Materials Project, eV/atom", True
    ),
    "mp_gappbe_alignn": Published(f"{_FIGSHARE}31458814", "band gap (PBE), eV"),
    "jv_formation_energy_peratom_alignn": Published(
        f"{_FIGSHARE}31458679", "formation energy, JARVIS-DFT, eV/atom", True
    ),
    "jv_optb88vdw_total_energy_alignn": Published(
        f"{_FIGSHARE}31459642", "total energy, JARVIS-DFT, eV/atom"
    ),
    "jv_ehull_alignn": Published(f"{_FIGSHARE}31458658", "energy above the hull, eV/atom"),
    "jv_optb88vdw_bandgap_alignn": Published(f"{_FIGSHARE}31459636", "band gap (OptB88vdW), eV"),
    "jv_mbj_bandgap_alignn": Published(f"{_FIGSHARE}31458694", "band gap (mBJ), eV"),
    "jv_bulk_modulus_kv_alignn": Published(f"{_FIGSHARE}31458649", "bulk modulus, GPa"),
    "jv_shear_modulus_gv_alignn": Published(f"{_FIGSHARE}31458724", "shear modulus, GPa"),
}
"""Classic models for bulk crystals by NIST's names."""


def published_file(name: str, folder: Path | None = None, address: str | None = None) -> Path:
    """Return the archive of a published model, downloaded if it is not here yet, its hash checked.

    Args:
        name: one of PUBLISHED.
        folder: where archives and their hashes are kept; by default below the cache folder.
        address: another place to download from.

    Raises:
        UserError: if it can't be had, or is not what it was the first time.
    """
    if folder is None:
        from crysmetrics.features.cache import default_folder

        folder = default_folder() / "alignn"
    address = address or PUBLISHED[name].address
    path, record = folder / f"{name}.zip", _read_record(folder / _RECORD)
    expected = record.get(name, {}).get("sha256")
    if not path.is_file():
        _download(name, address, path, expected)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected is None:
        record[name] = {"sha256": found, "address": address, "bytes": path.stat().st_size}
        write_json(dict(sorted(record.items())), folder / _RECORD)
    elif found != expected:
        raise UserError(_other_hash(name, str(path), found, expected, folder))
    return path


def _other_hash(name: str, what: str, found: str, expected: str, folder: Path) -> str:
    return (
        f"{what} has SHA-256 {found[:16]}..., but {expected[:16]}... was recorded for {name} at "
        f"its first download; if the new one is to be trusted, remove {name} from "
        f"{folder / _RECORD} and {name}.zip beside it."
    )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        return record
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"The record of hashes {path} can't be read: {error}.") from error


def _download(name: str, address: str, path: Path, expected: str | None) -> None:
    """Fetch an archive; it appears under its name when it is complete and its hash is right."""
    from http.client import HTTPException
    from urllib.request import urlopen

    digest, size = hashlib.sha256(), 0
    with atomic_file(path) as temporary:
        try:
            with urlopen(address, timeout=_TIMEOUT) as response, temporary.open("wb") as file:
                announced = response.headers.get("Content-Length")
                while chunk := response.read(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    if size > _MAX_BYTES:
                        raise UserError(f"{address} is larger than any ALIGNN model; not taken.")
                    file.write(chunk)
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UserError(
                f"The published weights {name} are not in the cache and can't be downloaded from "
                f"{address} ({reason}); use the shipped ones or copy the file to {path}."
            ) from error
        if announced is not None and int(announced) != size:
            raise UserError(f"The download of {name} broke off after {size} of {announced} bytes.")
        if expected is not None and digest.hexdigest() != expected:
            raise UserError(_other_hash(name, address, digest.hexdigest(), expected, path.parent))


def state_from_zip(name: str, data: bytes) -> dict[str, Tensor]:
    """Read the tensors in a published archive.

    Args:
        name: of the model, for errors.
        data: the archive.

    Raises:
        UserError: if it holds no checkpoint, or something it should not.
    """
    import pickle

    import torch

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            raw = archive.read(_checkpoint(name, archive.infolist()))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise UserError(f"The archive of {name} is no intact zip file: {error}.") from error
    try:
        checkpoint = load_tensors(io.BytesIO(raw))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"The checkpoint of {name} is not tensors alone: {reason}") from error
    state = checkpoint.get("model", checkpoint) if isinstance(checkpoint, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"The checkpoint of {name} holds no weights.")
    return tensors


def _checkpoint(name: str, entries: list[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    """Name the entry with the weights: the best model, or else the checkpoint of the last epoch."""
    for entry in entries:
        parts = PurePosixPath(entry.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in entry.filename:
            raise UserError(f"The archive of {name} names a file outside it: {entry.filename!r}.")
    found = [
        entry
        for entry in entries
        if entry.filename.endswith(".pt")
        and ("checkpoint_" in entry.filename or "best_model" in entry.filename)
    ]
    if not found:
        raise UserError(f"The archive of {name} holds no checkpoint.")
    best = max(found, key=lambda entry: ("best_model" in entry.filename, _epoch(entry.filename)))
    if best.file_size > _MAX_BYTES:
        raise UserError(f"{best.filename} of {name} is larger than any ALIGNN model; not read.")
    return best


def _epoch(filename: str) -> int:
    digits = "".join(c for c in PurePosixPath(filename).stem if c.isdigit())
    return int(digits or 0)
