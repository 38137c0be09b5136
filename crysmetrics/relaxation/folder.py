"""Relax a set into a folder: one CIF for each crystal that came to an end, a table, and a record.

While the work goes on, finished batches are kept in `unfinished-run/` inside the folder, each file
whole or not there. So it can be killed at any moment, and the same call goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.csv_files import write_csv
from crysmetrics.io.file_names import file_names
from crysmetrics.io.json_files import write_json
from crysmetrics.io.writing import cif_texts
from crysmetrics.locking import locked
from crysmetrics.progress import task
from crysmetrics.relaxation import (
    CONVERGED,
    ENERGY,
    RMSD,
    START_ENERGY,
    STEPS,
    RelaxationSettings,
    identity,
    relax,
)

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "crysmetrics-relax/1"
"""Name and version of the format of records."""
TABLE, RECORD = "relaxed.csv", "relaxed.json"
"""Names of the table and the record in the folder."""
_UNFINISHED, _LOCK = "unfinished-run", "lock"


def relax_to_folder(
    crystals: Crystals,
    folder: Path,
    *,
    potential: str = "chgnet",
    dispersion: bool = False,
    settings: RelaxationSettings,
    device: str = "cpu",
    workers: int | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Relax a set into a folder; see `relax` for the arguments.

    Args:
        crystals: B; what could not be read is named in the table.
        folder: new, or of the same work unfinished.
        overwrite: replace what another call made there.

    Returns:
        The table, one row for each structure of the set, failures included.

    Raises:
        UserError: if the folder holds something else, or somebody else writes there.
    """
    distinct = crystals.with_ids([f"{i:09d}" for i in range(len(crystals))]).with_failures(())
    limits = {
        name: getattr(settings, name)
        for name in ("max_force", "max_steps", "time_limit", "fixed_cell")
    }
    request = {
        "input_sha256": crystals.sha256(),
        **identity(potential, dispersion),
        **limits,
    }
    with _work_folder(folder, request, overwrite) as work:
        parts = [Crystals.load(path) for path in sorted(work.glob("batch-*.npz"))]
        done = {name for part in parts for name in part.ids}
        with task(f"Relaxing ({potential})", len(distinct)) as advance:
            advance(len(done))
            for batch in relax(
                distinct,
                device,
                dispersion,
                workers,
                potential=potential,
                settings=settings,
                done=done,
            ):
                batch.save(work / f"batch-{len(parts) + 1:06d}.npz")
                parts.append(batch)
                advance(len(batch))
        found = Crystals.concatenate(parts or [Crystals.empty()])
        order = np.argsort(np.array(found.ids, dtype=str), kind="stable")
        reasons = {int(failure.file): failure.reason for failure in found.failures}
        table = _finish(folder, crystals, found[order], reasons, request)
        _discard(work)
    return table


def _finish(
    folder: Path,
    crystals: Crystals,
    relaxed: Crystals,
    reasons: Mapping[int, str],
    request: Mapping[str, Any],
) -> pd.DataFrame:
    """Write structures, table and record; every step can be done again."""
    ended = [i for i in range(len(crystals)) if i not in reasons]
    names = dict(zip(ended, file_names(tuple(crystals.ids[i] for i in ended)), strict=True))
    kept = relaxed[ended].with_ids([crystals.ids[i] for i in ended])
    for name, text in cif_texts(kept):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    table = _table(crystals, relaxed, names, reasons)
    with atomic_file(folder / TABLE) as temporary:
        write_csv(table, temporary)
    counts = {"structures": len(table), "relaxed": len(ended), "failed": len(table) - len(ended)}
    rows = json.loads(table.to_json(orient="records"))
    write_json({"schema": SCHEMA, "request": request, **counts, "table": rows}, folder / RECORD)
    return table


def _table(
    crystals: Crystals, relaxed: Crystals, names: Mapping[int, str], reasons: Mapping[int, str]
) -> pd.DataFrame:
    """Make one row for each structure, then one for each that could not be read."""
    import pandas as pd

    values = relaxed.properties if len(relaxed) else {}

    def column(name: str) -> Any:
        return values.get(name, np.zeros(0))

    rows = range(len(crystals))
    made = {
        "id": list(crystals.ids),
        "file": [names.get(i, "") for i in rows],
        "num_atoms": crystals.num_atoms,
        "converged": column(CONVERGED),
        "steps": column(STEPS),
        "start_energy_per_atom": column(START_ENERGY),
        "energy_per_atom": column(ENERGY),
        "rmsd": column(RMSD),
        "start_volume_per_atom": crystals.volumes / crystals.num_atoms,
        "volume_per_atom": relaxed.volumes / relaxed.num_atoms,
        "reason": [reasons.get(i, "") for i in rows],
    }
    table = pd.DataFrame(made)
    if crystals.failures:
        unread = pd.DataFrame(
            {
                "id": [failure.file for failure in crystals.failures],
                "file": "",
                "converged": False,
                "reason": [failure.reason for failure in crystals.failures],
            }
        )
        table = pd.concat([table, unread], ignore_index=True)
        table = table.astype({"num_atoms": "Int64", "steps": "Int64", "converged": bool})
    return table


@contextmanager
def _work_folder(folder: Path, request: Mapping[str, Any], overwrite: bool) -> Iterator[Path]:
    """Open the folder of unfinished work, new or to be continued; locked within this block."""
    work = folder / _UNFINISHED
    _refuse_taken(folder, request, overwrite)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}).") from error
    with locked(work / _LOCK, f"Another process is writing to {folder}."):
        state = _refuse_taken(folder, request, overwrite)
        if state != "continued":
            _discard(work)
            if state == "finished":
                _remove_finished(folder)
            write_json({"schema": SCHEMA, "request": request}, work / RECORD)
        yield work
    if not any(child.name != _LOCK for child in work.iterdir()):
        (work / _LOCK).unlink(missing_ok=True)
        work.rmdir()


def _refuse_taken(folder: Path, request: Mapping[str, Any], overwrite: bool) -> str:
    """Return `new`, `continued`, `other` or `finished`.

    Raises:
        UserError: if the folder may not be written to.
    """
    if not folder.exists():
        return "new"
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, where a folder should be written.")
    advice = "choose another name or give --overwrite"
    unfinished = _record(folder / _UNFINISHED / RECORD)
    if unfinished is not None:
        if unfinished.get("request") == json.loads(json.dumps(dict(request))):
            return "continued"
        if not overwrite:
            raise UserError(f"{folder} holds unfinished work of another call; {advice}.")
        return "other"
    if _record(folder / RECORD) is not None:
        if not overwrite:
            raise UserError(f"{folder} holds relaxed structures; {advice}.")
        return "finished"
    if any(child.name != _UNFINISHED for child in folder.iterdir()):
        raise UserError(f"{folder} holds other things than relaxed structures; not replaced.")
    return "new"


def _record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def _discard(work: Path) -> None:
    """Take away what unfinished work has kept, but for the lock; the record goes first."""
    (work / RECORD).unlink(missing_ok=True)
    for path in work.iterdir():
        if path.name != _LOCK:
            path.unlink()


def _remove_finished(folder: Path) -> None:
    """Take away what an earlier call made, as its record lists it."""
    record = _record(folder / RECORD) or {}
    root = folder.resolve()
    for row in record.get("table", []):
        path = folder / str(row.get("file") or "")
        if row.get("file") and root in path.resolve().parents:
            path.unlink(missing_ok=True)
    for name in (TABLE, RECORD):
        (folder / name).unlink(missing_ok=True)
