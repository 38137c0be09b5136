"""Where structures come from: files, folders, archives and tables, as a stream of entries.

An entry is one text (or the reason why there is none) with its name and the id it gives.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from crysmetrics.errors import InputError
from crysmetrics.io.formats import ID_KEYS

MAX_FILE_BYTES = 256 * 1024**2
"""Largest single structure file, unpacked."""
MAX_ARCHIVE_BYTES = 8 * 1024**3
"""Largest total that an archive may unpack to."""

SUFFIXES: dict[str, str] = {
    ".cif": "cif",
    ".mcif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
}
"""Formats looked for inside folders and archives, by suffix."""
TABLE_SUFFIXES = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip")
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Entry(NamedTuple):
    """One text to be parsed."""

    name: str
    """For failures: the path inside what is read, or the row."""
    format: str
    """A key of the parsers in `crysmetrics.io.reading`, or "" if `reason` is set."""
    content: Path | bytes | str | None
    """A file to be read by whoever parses it, or the text itself."""
    id: str
    """The id of the structure; with several in one text, their prefix."""
    inner_ids: bool = False
    """Whether ids found inside the text go before `id` (single files of many structures)."""
    properties: Mapping[str, Any] = {}
    reason: str | None = None
    """Why there is nothing to parse."""


def format_of(name: str) -> str | None:
    """The structure format that a file's name says, or None."""
    path = PurePosixPath(name.lower().removesuffix(".gz"))
    if path.suffix in SUFFIXES:
        return SUFFIXES[path.suffix]
    if path.stem in ("poscar", "contcar") or path.name.startswith(("poscar", "contcar")):
        return "poscar"
    return None


def has_suffix(path: Path, suffixes: Iterable[str]) -> bool:
    """Whether the file's name ends in one of these, in any case."""
    return path.name.lower().endswith(tuple(suffixes))


def load(content: Path | bytes | str) -> str:
    """The text of an entry.

    Raises:
        ValueError: with the reason, if there is no readable text.
    """
    if isinstance(content, str):
        return content
    data = _read_file(content) if isinstance(content, Path) else content
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = _read_at_most(file, MAX_FILE_BYTES)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"is a damaged gzip file ({error})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"is not text: byte 0x{data[error.start]:02x} at {error.start} is not UTF-8"
        ) from error


def _read_file(path: Path) -> bytes:
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # reading a pipe would wait for ever
            raise ValueError("is not a regular file")
        if info.st_size > MAX_FILE_BYTES:
            raise ValueError(f"is too large ({info.st_size / 1e6:.0f} MB)")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(_why_unreadable(path, error)) from error


def _why_unreadable(path: Path, error: OSError) -> str:
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        return "is a broken link"
    if getattr(error, "errno", None) == 40 or "symbolic links" in str(error):
        return "is a link that leads back to itself"
    return f"can't be read ({error.strerror or error})"


def _read_at_most(file: IO[bytes], limit: int) -> bytes:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"unpacks to more than {limit / 1e6:.0f} MB; refused")
    return data


# --- folders -------------------------------------------------------------------------------


def folder_entries(root: Path) -> tuple[list[Entry], list[str]]:
    """Entries of all structure files below a folder, sorted by name, and the files ignored."""
    found: dict[str, Path | str] = {}
    ignored: list[str] = []
    _walk(root, "", (), found, ignored)
    names = sorted(found)
    ids = file_ids([n for n in names if isinstance(found[n], Path)])
    entries = []
    for name in names:
        content = found[name]
        if isinstance(content, str):
            entries.append(Entry(name, "", None, name, reason=content))
        else:
            entries.append(Entry(name, format_of(name) or "", content, ids[name]))
    return entries, ignored


def _walk(
    folder: Path,
    prefix: str,
    above: tuple[str, ...],
    found: dict[str, Path | str],
    ignored: list[str],
) -> None:
    """Fill `found` with files (a path) and failures (a reason) by relative name."""
    try:
        here = os.path.realpath(folder)
        children = sorted(os.scandir(folder), key=lambda child: child.name)
    except OSError as error:
        found[prefix.rstrip("/") or "."] = _why_unreadable(folder, error)
        return
    if here in above:
        found[prefix.rstrip("/")] = "is a link that leads back to a folder above it"
        return
    for child in children:
        name = prefix + child.name
        if child.name.startswith("."):
            ignored.append(name)
            continue
        path = Path(child.path)
        try:
            is_folder = child.is_dir()
        except OSError:
            is_folder = False
        if is_folder:
            _walk(path, name + "/", (*above, here), found, ignored)
        elif format_of(name) is not None:
            found[name] = path
        elif child.is_symlink() and not path.exists():
            found[name] = "is a broken link or one that leads back to itself"
        else:
            ignored.append(name)


def file_ids(names: list[str]) -> dict[str, str]:
    """Ids of files: relative paths without suffix, without the folders that all share.

    The shared folders go so that a folder and an archive that wraps it in one have equal ids.
    Where two files differ in the suffix alone, they keep it.
    """
    parts = [PurePosixPath(name).parts[:-1] for name in names]
    shared = os.path.commonprefix(parts) if parts else ()
    trimmed = {name: "/".join(PurePosixPath(name).parts[len(shared) :]) for name in names}
    stems = {name: _without_suffix(short) for name, short in trimmed.items()}
    clashes = Counter(stems.values())
    return {n: stems[n] if clashes[stems[n]] == 1 else trimmed[n] for n in names}


def _without_suffix(name: str) -> str:
    bare = name[: -len(".gz")] if name.lower().endswith(".gz") else name
    path = PurePosixPath(bare)
    return bare[: -len(path.suffix)] if path.suffix.lower() in SUFFIXES else bare


# --- archives --------------------------------------------------------------------------------


def archive_entries(path: Path) -> tuple[list[Entry], list[str]]:
    """Entries of all structure files of a .zip or .tar archive, and the members ignored.

    Members are read into memory, never unpacked to disk; those with absolute or `..` paths,
    links and devices are refused and named.

    Raises:
        InputError: if the archive is damaged, or unpacks to more than it may.
    """
    try:
        if has_suffix(path, TAR_SUFFIXES):
            members = _tar_members(path)
        else:
            members = _zip_members(path)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise InputError(f"{path} can't be read as an archive ({error}).") from error
    ignored = [name for name, content in members if content is None]
    texts = [(name, content) for name, content in members if content is not None]
    ids = file_ids([name for name, content in texts if isinstance(content, bytes)])
    entries = []
    for name, content in sorted(texts, key=lambda member: member[0]):
        if isinstance(content, str):
            entries.append(Entry(name, "", None, name, reason=content))
        else:
            entries.append(Entry(name, format_of(name) or "", content, ids[name]))
    return entries, ignored


def _judge_member(name: str, regular: bool, size: int) -> str | None:
    """Why a member is not read: "" if it is none of ours, a reason if refused, None if read."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
        return "has a path that leads outside the archive; refused"
    if any(part.startswith((".", "__MACOSX")) for part in parts) or format_of(name) is None:
        return ""
    if not regular:
        return "is a link or device inside an archive; refused"
    if size > MAX_FILE_BYTES:
        return f"unpacks to {size / 1e6:.0f} MB; refused"
    return None


def _zip_members(path: Path) -> list[tuple[str, bytes | str | None]]:
    members: list[tuple[str, bytes | str | None]] = []
    with zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        _refuse_bomb(path, sum(info.file_size for info in infos))
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            verdict = _judge_member(info.filename, kind in (0, stat.S_IFREG), info.file_size)
            content: bytes | str | None = verdict or None
            if verdict is None:
                try:
                    with archive.open(info) as file:
                        content = _read_at_most(file, MAX_FILE_BYTES)
                except (RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
                    content = f"can't be unpacked ({error})"
                except ValueError as error:
                    content = str(error)
            members.append((info.filename, content))
    return members


def _tar_members(path: Path) -> list[tuple[str, bytes | str | None]]:
    members: list[tuple[str, bytes | str | None]] = []
    total = 0
    with tarfile.open(path) as archive:
        for info in archive:
            if info.isdir():
                continue
            total += info.size
            _refuse_bomb(path, total)
            verdict = _judge_member(info.name.removeprefix("./"), info.isreg(), info.size)
            content: bytes | str | None = verdict or None
            if verdict is None:
                file = archive.extractfile(info)
                content = file.read() if file else "can't be unpacked"
            members.append((info.name.removeprefix("./"), content))
    return members


def _refuse_bomb(path: Path, size: int) -> None:
    if size > MAX_ARCHIVE_BYTES:
        limit = MAX_ARCHIVE_BYTES / 1e9
        raise InputError(f"{path} unpacks to {size / 1e9:.1f} GB, over {limit:.1f} GB; refused.")


# --- tables ----------------------------------------------------------------------------------


def table_entries(path: Path, id_column: str | None = None) -> Iterator[Entry]:
    """Entries of a CSV with a `cif` column, row by row; other columns become properties.

    Args:
        path: `.csv`, compressed or not.
        id_column: by default the first of `material_id`, `id`, ... that the table has;
            without any, rows are numbered from 0.

    Raises:
        InputError: if the table can't be parsed, or lacks a column.
    """
    import pandas as pd

    try:
        # Text first: an id 0012 stays 0012, and the formula NaN stays a formula.
        frames = pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=5000)
        row = 0
        for frame in frames:
            cif_column = next((c for c in frame.columns if c.lower() == "cif"), None)
            if cif_column is None:
                columns = ", ".join(map(str, frame.columns[:8]))
                raise InputError(f"{path} has no column named cif (its columns: {columns[:200]}).")
            if id_column is not None and id_column not in frame.columns:
                raise InputError(f"{path} has no column named {id_column}.")
            name_column = id_column or next((k for k in ID_KEYS if k in frame.columns), None)
            extra = [
                str(c)
                for c in frame.columns
                if c not in (cif_column, name_column) and not str(c).startswith("Unnamed:")
            ]
            numeric = {c: _as_numbers(frame[c]) for c in extra}
            for k, text in enumerate(frame[cif_column]):
                given = frame[name_column].iat[k] if name_column else ""
                label = f"{path.name} row {row + 1}" + (f" ({given})" if given else "")
                properties = {c: numeric[c][k] for c in extra}
                yield Entry(label, "cif", text, given or str(row), properties=properties)
                row += 1
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} is no CSV table ({error}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}).") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"{path} can't be read ({error}).") from error


def _as_numbers(column: Any) -> list[Any]:
    """The column as numbers (None where empty) if all of it is, else as text."""
    import pandas as pd

    numbers = pd.to_numeric(column.where(column != ""), errors="coerce")
    if (numbers.isna() & (column != "")).any():
        return column.tolist()
    return [None if pd.isna(v) else v for v in numbers.tolist()]
