"""Keep the batches of a decoding beside its output, so that a killed command goes on.

They are kept in a folder `OUTPUT.unfinished`, each whole or not there, and taken away when the
output is written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from crysgen.run_state import RECORD, SCHEMA, read_record
from crysgen.unfinished import UnfinishedBatches
from crysmetrics.errors import UserError
from crysmetrics.interrupts import advice
from crysmetrics.io import Crystals
from crysmetrics.io.json_files import write_json
from crysmetrics.locking import locked

SUFFIX = ".unfinished"
"""End of the folder's name, after that of the output."""
_LOCK = "lock"


class KeptDecodings:
    """Store of the batches of one decoding, in a folder. Use `keeping`.

    Args:
        folder: which is locked.
        output: of the command, for messages.
        overwrite: whether batches of another command may go.
    """

    def __init__(self, folder: Path, output: Path, overwrite: bool) -> None:
        self._folder, self._output, self._overwrite = folder, output, overwrite
        self.states = UnfinishedBatches(folder, "decoding")

    def begin(self, request: Any) -> list[Crystals]:
        """Return the batches that are kept of a request.

        Args:
            request: what decides the result; anything that JSON holds.

        Raises:
            UserError: if those of another request are kept, and may not be replaced.
        """
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        record = {"schema": SCHEMA, "request": digest}
        if read_record(self._folder / RECORD) == record:
            return [Crystals.load(path) for path in self._files()]
        foreign = any(path.name != _LOCK for path in self._folder.iterdir())
        if foreign and not self._overwrite:
            raise UserError(
                f"{self._folder} holds unfinished work of another command; choose another name or "
                "give --overwrite."
            )
        self.discard()
        write_json(record, self._folder / RECORD)
        return []

    def add(self, crystals: Crystals) -> None:
        """Keep a finished batch; it is on disk when this returns."""
        crystals.save(self._folder / f"batch-{len(self._files()) + 1:06d}.npz")
        names = (*crystals.ids, *(failure.file for failure in crystals.failures))
        self.states.drop(list(names))

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("batch-*.npz"))

    def discard(self) -> None:
        """Take away what is kept; the record goes first."""
        for path in (self._folder / RECORD, *self._files(), *self._folder.glob("state-*.npz")):
            path.unlink(missing_ok=True)


@contextmanager
def keeping(output: Path, overwrite: bool) -> Iterator[KeptDecodings]:
    """Yield where a command keeps its batches until its output is written, within this block.

    Raises:
        UserError: if another process writes the same output, or the folder can't be made.
    """
    folder = output.with_name(output.name + SUFFIX)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror or error}).") from error
    with (
        advice("the same command goes on where it stopped"),
        locked(folder / _LOCK, f"Another process is writing {output}."),
    ):
        kept = KeptDecodings(folder, output, overwrite)
        try:
            yield kept
        except UserError:
            _tidy(folder)
            raise
        kept.discard()
    _tidy(folder)


def _tidy(folder: Path) -> None:
    """Take the folder away if it keeps nothing."""
    with suppress(OSError):
        if all(path.name == _LOCK for path in folder.iterdir()):
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()
