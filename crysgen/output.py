"""The folder of a run: `samples.csv`, `request.json` and one CIF for each structure.

While a run goes on, its pieces are kept in `unfinished-run/` inside the folder, each file whole or
not there; CIFs and table appear when all are done. So a run can be killed at any moment, and the
same command goes on where it stopped. Results of an earlier run that is to be replaced stay until
the new ones are complete.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.io.atomic import atomic_file

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "crysgen/1"
COLUMNS = (
    *("file", "formula", "num_atoms", "space_group", "density", "volume_per_atom"),
    *("min_distance", "predicted_formation_energy_per_atom", "method", "prototype_id"),
    *("score", "rank", "ref_id", "seed"),
)
TABLE = "samples.csv"
RECORD = "request.json"
_UNFINISHED = "unfinished-run"
_LOCK = "lock"


class Store:
    """Candidates of finished pieces, in memory."""

    def __init__(self) -> None:
        self._parts: list[Crystals] = []
        self._relaxed: list[Crystals] = []

    @property
    def done(self) -> set[str]:
        """Pieces that need not be made again."""
        return {
            name.partition("/")[0]
            for part in self._parts
            for name in (*part.ids, *(failure.file for failure in part.failures))
        }

    def add(self, method: str, crystals: Crystals) -> None:
        """Keep the candidates of some pieces of a method."""
        names = [f"{method}-{name}" for name in crystals.ids]
        failures = [f._replace(file=f"{method}-{f.file}") for f in crystals.failures]
        self._parts.append(crystals.with_ids(names).with_failures(failures))

    def candidates(self) -> Crystals:
        """All of them; pieces without candidates are failures."""
        return Crystals.concatenate(self._parts)

    def add_relaxed(self, crystals: Crystals) -> None:
        """Keep candidates as they are after relaxation, under the ids they had."""
        self._relaxed.append(crystals)

    def relaxed(self) -> Crystals:
        """Those kept so far, in any order."""
        return Crystals.concatenate(self._relaxed) if self._relaxed else Crystals.empty()


class RunFolder(Store):
    """Candidates of finished pieces, in a folder that outlives the process.

    Use `open_run`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.work = path / _UNFINISHED
        for part in sorted(self.work.glob("part-*.npz")):
            self._parts.append(Crystals.load(part))
        for part in sorted(self.work.glob("relaxed-*.npz")):
            self._relaxed.append(Crystals.load(part))

    def add(self, method: str, crystals: Crystals) -> None:
        """See `Store`; it is on disk when this returns."""
        super().add(method, crystals)
        self._parts[-1].save(self.work / f"part-{len(self._parts):06d}.npz")

    def add_relaxed(self, crystals: Crystals) -> None:
        """See `Store`; it is on disk when this returns."""
        super().add_relaxed(crystals)
        crystals.save(self.work / f"relaxed-{len(self._relaxed):06d}.npz")

    def finish(
        self, files: Iterable[tuple[str, str]], table: pd.DataFrame, result: Mapping[str, Any]
    ) -> None:
        """Write what was made, take away what it replaces, and call the run finished.

        Every step can be done again: a run killed here goes on here.

        Args:
            files: (name, CIF text).
            table: with the columns COLUMNS.
            result: of the run, for the record.
        """
        names = set()
        for name, text in files:
            with atomic_file(self.path / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
            names.add(name)
        for name in _files_of(self.path / TABLE):
            if name not in names:
                _remove(self.path, name)
        with atomic_file(self.path / TABLE) as temporary:
            table.to_csv(temporary, index=False, columns=list(COLUMNS))
        record = _read_record(self.work / RECORD) or {}
        _write_record(self.path / RECORD, {**record, "result": dict(result)})
        # The record goes first: without it there is no unfinished run, whatever else is left.
        for leaving in (self.work / RECORD, *sorted(self.work.iterdir())):
            leaving.unlink(missing_ok=True)
        self.work.rmdir()


@contextmanager
def open_run(
    path: Path, record: Mapping[str, Any], overwrite: bool = False
) -> Iterator[tuple[RunFolder, bool]]:
    """A folder for a run, new or to be continued; locked within this block.

    Args:
        path: of the folder.
        record: `request` (settings that must be equal for a run to be continued) and anything
            else that is to be remembered.
        overwrite: replace a finished run, or an unfinished one of another request.

    Yields:
        The folder, and whether it continues an earlier run.

    Raises:
        UserError: if the folder holds something else, or somebody else writes there.
    """
    full = {"schema": SCHEMA, **record}
    continued = check_folder(path, record, overwrite)
    work = path / _UNFINISHED
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}).") from error
    with _locked(work / _LOCK, path):
        if continued != "continued":
            (work / RECORD).unlink(missing_ok=True)
            for part in (*work.glob("part-*.npz"), *work.glob("relaxed-*.npz")):
                part.unlink()
            _write_record(work / RECORD, full)
        yield RunFolder(path), continued == "continued"


def check_folder(path: Path, record: Mapping[str, Any], overwrite: bool = False) -> str:
    """The `state` of a folder that a run may write to.

    Raises:
        UserError: if it may not.
    """
    found = state(path, record)
    if found in ("finished", "other") and not overwrite:
        raise UserError(_say_taken(path, found, record))
    if found == "foreign" and not path.is_dir():
        raise UserError(f"{path} is a file, where a folder should be written.")
    if found == "foreign":
        raise UserError(f"{path} holds other things than a run of crysgen sample; not replaced.")
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a broken link.")
    return found


def state(path: Path, record: Mapping[str, Any]) -> str:
    """What a folder is to a request.

    Returns:
        `new` (nothing there), `continued` (an unfinished run of this request), `other` (one of
        another request), `finished`, or `foreign` (something else).
    """
    if not path.exists():
        return "new"
    if not path.is_dir():
        return "foreign"
    unfinished = _read_record(path / _UNFINISHED / RECORD)
    if unfinished is not None:
        return "continued" if unfinished.get("request") == _plain(record["request"]) else "other"
    if _read_record(path / RECORD) is not None:
        return "finished"
    # A run killed before its first word leaves an empty folder of ours.
    names = {child.name for child in path.iterdir()} - {_UNFINISHED}
    return "foreign" if names else "new"


def free_folder(base: str, record: Mapping[str, Any]) -> Path:
    """The first of `base`, `base-2`, ... that is new, or holds this request unfinished."""
    number = 1
    while True:
        path = Path(base if number == 1 else f"{base}-{number}")
        if state(path, record) in ("new", "continued"):
            return path
        number += 1


def _say_taken(path: Path, found: str, record: Mapping[str, Any]) -> str:
    if found == "finished":
        return f"{path} holds a finished run; choose another name or give --overwrite."
    unfinished = _read_record(path / _UNFINISHED / RECORD) or {}
    here, there = _plain(record["request"]), unfinished.get("request", {})
    return (
        f"{path} holds an unfinished run of another request ({_difference(here, there)}); "
        "choose another name or give --overwrite."
    )


def _difference(here: Mapping[str, Any], there: Mapping[str, Any], within: str = "") -> str:
    """The first setting that differs, in words."""
    for key in here:
        ours, theirs = here[key], there.get(key)
        if ours == theirs:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return _difference(ours, theirs, key)
        if key.endswith("sha256"):
            return f"other {within}"
        where = "" if within in ("", "settings") else f"{within}: "
        return f"{where}{key} was {theirs}, is {ours}"
    return "settings that this version does not know"


def _plain(value: Any) -> Any:
    """As JSON gives it back: lists for tuples, strings for keys."""
    return json.loads(json.dumps(value))


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    with atomic_file(path) as temporary:
        text = json.dumps(record, indent=2, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _read_record(path: Path) -> dict[str, Any] | None:
    """A record of ours, or None."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def _files_of(table: Path) -> list[str]:
    """Names in the column `file` of a table that is there."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return [row["file"] for row in csv.DictReader(file) if row.get("file")]
    except (OSError, ValueError):
        return []


def _remove(folder: Path, name: str) -> None:
    """A file below `folder`, and the folders that are empty then."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:  # a table that somebody has edited
        return
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == folder:
            return
        with suppress(OSError):
            parent.rmdir()


@contextmanager
def _locked(path: Path, folder: Path) -> Iterator[None]:
    """One process at a time; the system takes the lock away when a process dies."""
    with path.open("a+b") as file:
        if not _try_lock(file):
            raise UserError(f"Another run is writing to {folder}.")
        yield


def _try_lock(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
