"""Tell what a folder is to a request of `crysgen sample`, and keep the record of the request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crysmetrics.errors import UserError
from crysmetrics.io.atomic import is_temporary
from crysmetrics.io.json_files import write_json

SCHEMA = "crysgen/1"
"""Name and version of the format of records."""
RECORD = "request.json"
"""Name of the record of the request in the folder of a run."""
UNFINISHED = "unfinished-run"
"""Name of the folder inside, where an unfinished run keeps its pieces."""


def refuse_taken(path: Path, overwrite: bool = False) -> None:
    """Refuse a folder that no request may write to, before a request is known.

    Raises:
        UserError: if `path` is no folder, holds other things, or a finished run.
    """
    found = state(path, None)
    if found == "foreign" or (found == "finished" and not overwrite):
        raise UserError(_say_taken(path, found, None))


def check_folder(path: Path, record: Mapping[str, Any], overwrite: bool = False) -> str:
    """Return the `state` of a folder that a run may write to.

    Raises:
        UserError: if it may not.
    """
    found = state(path, record)
    if found == "foreign" or (found in ("finished", "other", "damaged") and not overwrite):
        raise UserError(_say_taken(path, found, record))
    return found


def state(path: Path, record: Mapping[str, Any] | None) -> str:
    """Tell what a folder is to a request.

    Args:
        path: of the folder.
        record: with the `request`; None for any, so that unfinished runs are all `other`.

    Returns:
        `new` (nothing there), `continued` (an unfinished run of this request), `other` (one of
        another request), `damaged` (one whose request can't be read), `finished`, or `foreign`
        (something else).
    """
    if not path.exists():
        return "foreign" if path.is_symlink() else "new"
    if not path.is_dir():
        return "foreign"
    unfinished = read_record(path / UNFINISHED / RECORD)
    if unfinished is not None:
        same = record is not None and unfinished.get("request") == _plain(record["request"])
        return "continued" if same else "other"
    if (path / UNFINISHED / RECORD).exists():
        return "damaged"
    if read_record(path / RECORD) is not None:
        return "finished"
    # A run killed before its first word leaves an empty folder of ours.
    names = {child.name for child in path.iterdir() if not is_temporary(child)} - {UNFINISHED}
    return "foreign" if names else "new"


def free_folder(base: str, record: Mapping[str, Any]) -> Path:
    """Find the first of `base`, `base-2`, ... that is new, or holds this request unfinished."""
    number = 1
    while True:
        path = Path(base if number == 1 else f"{base}-{number}")
        if state(path, record) in ("new", "continued"):
            return path
        number += 1


def _say_taken(path: Path, found: str, record: Mapping[str, Any] | None) -> str:
    """Say why a folder is not written to."""
    if found == "foreign":
        if path.is_symlink() and not path.exists():
            return f"{path} is a broken link."
        if not path.is_dir():
            return f"{path} is a file, where a folder should be written."
        return f"{path} holds other things than a run of crysgen sample; not replaced."
    advice = "choose another name or give --overwrite"
    if found == "finished":
        return f"{path} holds a finished run; {advice}."
    if found == "damaged":
        return f"{path} holds an unfinished run whose {RECORD} is damaged; {advice}."
    unfinished = read_record(path / UNFINISHED / RECORD) or {}
    here, there = _plain(record["request"]) if record else {}, unfinished.get("request")
    why = _difference(here, there if isinstance(there, dict) else {})
    return f"{path} holds an unfinished run of another request ({why}); {advice}."


def _difference(here: Mapping[str, Any], there: Mapping[str, Any], within: str = "") -> str:
    """Name the first setting that differs."""
    for key in here:
        ours, theirs = here[key], there.get(key)
        if ours == theirs:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            return _difference(ours, theirs, key)
        if key.endswith("sha256"):
            return f"other {within}"
        if isinstance(theirs, (dict, list)) or (isinstance(ours, dict) and theirs is None):
            return f"other {key}"
        where = "" if within in ("", "settings") else f"{within}: "
        return f"{where}{key} was {theirs}, is {ours}"
    return "settings that this version does not know"


def _plain(value: Any) -> Any:
    """Convert to what JSON gives back: lists for tuples, strings for keys."""
    return json.loads(json.dumps(value))


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record of ours, whole or not at all."""
    write_json(record, path)


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record of ours; None if there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None
