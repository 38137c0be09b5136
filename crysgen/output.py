"""Keep the folder of a run: `samples.csv`, `request.json`, `candidates.html` and structures.

While a run goes on, its pieces are kept in `unfinished-run/` inside the folder, each file whole or
not there; structures and table appear when all are done. So a run can be killed at any moment, and
the same command goes on where it stopped. Results of an earlier run that is to be replaced stay
until the new ones are complete.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crysgen.columns import COLUMNS
from crysgen.proposers.base import CANDIDATE_PROPERTIES
from crysgen.run_state import RECORD, SCHEMA, UNFINISHED, check_folder, read_record, write_record
from crysgen.unfinished import UnfinishedBatches
from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals
from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.csv_files import unquoted, write_csv
from crysmetrics.io.parsed import one_line
from crysmetrics.locking import locked

if TYPE_CHECKING:
    from crysgen.samples import Result
    from crysgen.settings import SamplingSettings

TABLE = "samples.csv"
"""Name of the table of samples in the folder of a run."""
_LOCK = "lock"


class NothingMadeError(UserError):
    """A run can't have a result, however often it is repeated; its folder keeps nothing of it."""


class Store:
    """Store of the candidates of finished pieces, in memory."""

    def __init__(self) -> None:
        self._parts: list[Crystals] = []
        self._relaxed: list[Crystals] = []

    @property
    def done(self) -> set[str]:
        """Names of the pieces that need not be made again."""
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

    def unfinished(self, method: str) -> UnfinishedBatches | None:
        """Return where a method keeps batches on their way; None if this is no folder."""
        return None

    def candidates(self, methods: Collection[str] | None = None) -> Crystals:
        """Join all candidates, or those of some methods; pieces without any are failures."""
        parts = [p for p in self._parts if methods is None or _method_of(p) in methods]
        return Crystals.concatenate(parts) if parts else Crystals.empty()

    def add_relaxed(self, crystals: Crystals) -> None:
        """Keep candidates as they are after relaxation, under the ids they had."""
        self._relaxed.append(crystals)

    def relaxed(self) -> Crystals:
        """Join the relaxed candidates that are kept so far, in any order."""
        return Crystals.concatenate(self._relaxed) if self._relaxed else Crystals.empty()

    def finish(self, result: Result, settings: SamplingSettings, seconds: float) -> None:
        """Write what was made, where the store is a folder; a store in memory has nothing to do.

        Args:
            result: of the run.
            settings: of the run, which say how structures are written.
            seconds: that the run took, for the record.
        """


def _method_of(part: Crystals) -> str:
    """Return the method that made a part; a part is of one method, and never empty."""
    names = [*part.ids, *(failure.file for failure in part.failures)]
    return names[0].partition("-")[0] if names else ""


class RunFolder(Store):
    """Store of the candidates of finished pieces, in a folder that outlives the process.

    Use `open_run`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.work = path / UNFINISHED
        self._parts = [_load_part(part) for part in self._files("part")]
        self._relaxed = [_load_part(part, relaxed=True) for part in self._files("relaxed")]
        for kept, parts in ("candidates", self._parts), ("relaxed structures", self._relaxed):
            names = [name for part in parts for name in part.ids]
            if len(set(names)) != len(names):
                raise InputError(f"{self.work} is damaged: it holds some {kept} twice.")

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.work.glob(f"{kind}-*.npz"))

    def _next_file(self, kind: str) -> Path:
        """Name a file behind all of a kind, of which some may have been taken away."""
        numbers = [path.stem.rpartition("-")[2] for path in self._files(kind)]
        last = max((int(number) for number in numbers if number.isdecimal()), default=0)
        return self.work / f"{kind}-{last + 1:06d}.npz"

    def add(self, method: str, crystals: Crystals) -> None:
        """See `Store`; it is on disk when this returns."""
        super().add(method, crystals)
        self._parts[-1].save(self._next_file("part"))
        names = (*crystals.ids, *(failure.file for failure in crystals.failures))
        self.unfinished(method).drop([name.partition("/")[0] for name in names])

    def unfinished(self, method: str) -> UnfinishedBatches:
        """See `Store`; what is kept goes when the run is finished, or begun anew."""
        return UnfinishedBatches(self.work, method)

    def add_relaxed(self, crystals: Crystals) -> None:
        """See `Store`; it is on disk when this returns."""
        super().add_relaxed(crystals)
        crystals.save(self._next_file("relaxed"))

    def finish(self, result: Result, settings: SamplingSettings, seconds: float) -> None:
        """Write what was made, take away what it replaces, and call the run finished.

        Every step can be done again: a run killed here goes on here.
        """
        from crysgen.written_files import files, suffixes

        names = set()
        for name, text in files(result, settings):
            with atomic_file(self.path / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
            names.add(name)
        for name in _files_of(self.path / TABLE):
            stem = name.rpartition(".")[0]
            for old in {name, *(stem + suffix for suffix in suffixes())} - names:
                _remove(self.path, old)
        with atomic_file(self.path / TABLE) as temporary:
            write_csv(result.table, temporary, columns=tuple(COLUMNS))
        record = read_record(self.work / RECORD) or {}
        summary = {**result.summary(), "seconds": round(seconds, 1)}
        write_record(self.path / RECORD, {**record, "result": summary})
        _discard(self.work)


def _discard(work: Path) -> None:
    """Take away what an unfinished run has kept, but for the lock, which is held."""
    # The record goes first: without it there is no unfinished run, whatever else is left.
    (work / RECORD).unlink(missing_ok=True)
    for leaving in work.iterdir():
        if leaving.name != _LOCK:
            leaving.unlink()


def _load_part(path: Path, relaxed: bool = False) -> Crystals:
    """Read a file of candidates.

    Raises:
        InputError: if it is damaged; the sentence says what helps.
    """
    advice = "take it away, and the same command makes it anew"
    try:
        part = Crystals.load(path)
    except InputError as error:
        raise InputError(f"{one_line(error, 1000).rstrip('.')}; {advice}.") from error
    wanted = dict(CANDIDATE_PROPERTIES)
    if relaxed:
        from crysmetrics.relaxation import ENERGY

        wanted[ENERGY] = "f"
    kinds = {name: values.dtype.kind for name, values in part.properties.items()}
    names = [*part.ids, *(failure.file for failure in part.failures)]
    good = bool(names) and all("-" in name for name in names)
    if len(part):
        good &= all(kinds.get(name, " ") in kind for name, kind in wanted.items())
        good = good and bool((part.properties["request"] >= 0).all())
    if not good:
        raise InputError(f"{path} is damaged: these are no candidates; {advice}.")
    return part


@contextmanager
def open_run(
    path: Path, record: Mapping[str, Any], overwrite: bool = False
) -> Iterator[tuple[RunFolder, bool]]:
    """Open a folder for a run, new or to be continued; locked within this block.

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
    check_folder(path, record, overwrite)
    work = path / UNFINISHED
    new = [parent for parent in (path, *path.parents) if not parent.exists()]
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}).") from error
    busy = f"Another run is writing to {path}."
    try:
        with locked(work / _LOCK, busy):
            # Another process may have finished a run since.
            continued = check_folder(path, record, overwrite) == "continued"
            if not continued:
                _discard(work)
                write_record(work / RECORD, {"schema": SCHEMA, **record})
            folder = RunFolder(path)
            try:
                yield folder, continued
            except Exception as error:
                if isinstance(error, NothingMadeError) or not (continued or folder.done):
                    _discard(work)
                raise
            finally:
                _remove_if_done(work)
    finally:
        _remove_if_done(work)  # on Windows a lock can't be removed while it is held
        with suppress(OSError):
            for parent in new:
                parent.rmdir()  # unless something has been made


def _remove_if_done(work: Path) -> None:
    """Take away the folder of an unfinished run that holds nothing but the lock."""
    with suppress(OSError):
        if {child.name for child in work.iterdir()} <= {_LOCK}:
            shutil.rmtree(work)


def _files_of(table: Path) -> list[str]:
    """Read the column `file` of a table, if it is there."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return [unquoted(row["file"]) for row in csv.DictReader(file) if row.get("file")]
    except (OSError, ValueError):
        return []


def _remove(folder: Path, name: str) -> None:
    """Remove a file below `folder`, and the folders that are empty then."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:  # a table that somebody has edited
        return
    path.unlink(missing_ok=True)
    for parent in path.parents:
        if parent == folder:
            return
        with suppress(OSError):
            parent.rmdir()
