"""Keep the user's own library, beside the shipped one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crysgen.retrieval.library.entries import USER_SOURCE, Entries, load_entries, pack, save_entries
from crysgen.retrieval.library.prototypes import primitive_crystal
from crysmetrics.errors import UserError
from crysmetrics.folders import data_folder
from crysmetrics.io import Failure, read
from crysmetrics.locking import locked
from crysmetrics.progress import task

VARIABLE = "CRYSGEN_LIBRARY"
"""Environment variable that names another library file."""
OWN = (USER_SOURCE, "unknown")
"""Source and licence of the user's own crystals."""
MAX_ATOMS = 250
"""Number of atoms in a primitive cell beyond which crystals are not added."""
_MOST_ELEMENTS = 20
_PATIENCE = 300.0
"""Seconds to wait for others that add to the same library; each holds it for a second or two."""


def user_library() -> Path:
    """Find the file of the user's own crystals, whether it exists or not."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    return data_folder("crysgen", appauthor=False) / "library.npz"


def add_to_user_library(
    paths: Sequence[str | Path],
    path: str | Path | None = None,
    id_column: str | None = None,
    cif_column: str | None = None,
) -> tuple[int, int, list[Failure]]:
    """Add crystals to the user's library; those of an id that is there take its place.

    Several processes may add to one library at once: each waits until the others have written.

    Args:
        paths: anything that `crysmetrics.io.read` takes.
        path: the library file; the user's own by default.
        id_column: of tables and JSON; None for the usual names.
        cif_column: the column of structures; None for the usual names.

    Returns:
        How many crystals were added, how many the file holds, and what could not be added.

    Raises:
        UserError: if nothing can be read or written.
    """
    target = user_library() if path is None else Path(path)
    crystals, ids, hulls = [], [], []
    failures: list[Failure] = []
    for source in paths:
        found = read(source, id_column=id_column, cif_column=cif_column)
        failures += found.failures
        hull = _hull(found.properties, len(found))
        with task("primitive cells", len(found)) as advance:
            for i, crystal in enumerate(found):
                advance(1)
                cell = primitive_crystal(crystal)
                if sum(cell.counts) > MAX_ATOMS or len(cell.counts) > _MOST_ELEMENTS:
                    why = f"has more than {MAX_ATOMS} atoms or {_MOST_ELEMENTS} elements"
                    failures.append(Failure(crystal.ids[0], why))
                    continue
                crystals.append(cell)
                ids.append(crystal.ids[0])
                hulls.append(hull[i])
    if not crystals:
        why = f" ({failures[0].file}: {failures[0].reason})" if failures else ""
        raise UserError(f"There is nothing to add to the library{why}.")
    # Of two crystals with one id the last one counts.
    last = {name: k for k, name in enumerate(ids)}
    keep = sorted(last.values())
    source_index = np.zeros(len(keep), dtype=np.uint8)
    new = pack(
        [ids[k] for k in keep],
        [crystals[k] for k in keep],
        source_index,
        (OWN,),
        np.array([hulls[k] for k in keep]),
    )
    return len(new), _join(new, target), failures


def _join(new: Entries, path: Path) -> int:
    """Put entries before those of a library file; returns how many it holds then."""
    target = path.resolve()  # one lock for all links to a file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}).") from error
    busy = f"Another process has been writing to {path} for {_PATIENCE / 60:.0f} minutes."
    with locked(target.with_name(f"{target.name}.lock"), busy, _PATIENCE):
        whole = new.joined(load_entries(target)) if target.is_file() else new
        save_entries(whole, target)
    return len(whole)


def describe(entries: Entries) -> dict[str, int]:
    """Count crystals by database and licence, and prototypes."""
    counts = np.bincount(entries.source, minlength=len(entries.sources))
    by_source: dict[str, int] = {}
    for (name, licence), count in zip(entries.sources, counts.tolist(), strict=True):
        if count:
            by_source[f"{name} ({licence})"] = by_source.get(f"{name} ({licence})", 0) + count
    return {**by_source, "prototypes": len(entries.representatives)}


def _hull(properties, count: int):  # type: ignore[no-untyped-def]
    for name in ("e_above_hull", "energy_above_hull"):
        if name in properties:
            return np.asarray(properties[name], dtype=float)
    return np.full(count, np.nan)
