"""Where structures come from: entries, their names and ids, and files in folders.

An entry is one text (or the reason why there is none) with its name and the id it gives.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import posixpath
import re
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from crysmetrics.errors import InputError
from crysmetrics.io.parsed import printable

MAX_FILE_BYTES = 256 * 1024**2
"""Largest structure file among many, unpacked."""
MAX_TOTAL_BYTES = 4 * 1024**3
"""Largest total that an archive or a compressed file may unpack to, and largest single file."""

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
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SAMPLES_TABLE = "samples.csv"
"""Stands beside structures: which was made for what (see `crysmetrics.matching.pairing`)."""
COMPANIONS = (SAMPLES_TABLE, "request.json")
"""What `crysgen sample` writes beside structures: that these are not read is not worth a word."""

_POSCAR_NAME = re.compile(r"(poscar|contcar)([^a-z].*)?$")


class SupportsRead(Protocol):
    """An open binary file, unpacked on the fly or not."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""


class Entry(NamedTuple):
    """One text to be parsed, or the reason why there is none."""

    name: str
    """For failures: the path inside what is read, or the row."""
    format: str
    """A key of the parsers in `crysmetrics.io.reading`, or "" if `reason` is set."""
    id: str
    """The id of the structure; with several in one text, their prefix."""
    content: str | bytes = b""
    path: str | None = None
    """A file to be read, instead of `content`, by whoever parses it."""
    is_all: bool = False
    """Whether this one text is all that is read: ids inside it then go before `id`."""
    properties: Mapping[str, Any] = {}
    reason: str | None = None
    """Why there is nothing to parse."""


class Source(NamedTuple):
    """Entries to be read once, in order."""

    entries: Iterable[Entry]
    total: int | None
    """How many there are, where that is known beforehand."""
    ignored: list[str]
    """Names of files of other kinds."""


# --- names and ids -------------------------------------------------------------------------


def format_of(name: str) -> str | None:
    """The structure format that a file's name says, or None."""
    base = name.rpartition("/")[2].lower().removesuffix(".gz")
    found = SUFFIXES.get(base[base.rfind(".") :]) if "." in base else None
    return found or ("poscar" if _POSCAR_NAME.match(base) else None)


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name is a system's, not the user's."""
    return part.startswith(".") or part == "__MACOSX"


def has_suffix(path: Path, suffixes: Iterable[str]) -> bool:
    """Whether the file's name ends in one of these, in any case."""
    return path.name.lower().endswith(tuple(suffixes))


def without_suffix(name: str) -> str:
    """A file's name without `.gz` and the suffix of a structure format."""
    bare = name[: -len(".gz")] if name.lower().endswith(".gz") else name
    stem, dot, suffix = bare.rpartition(".")
    return stem if (dot + suffix).lower() in SUFFIXES else bare


def file_ids(names: list[str]) -> dict[str, str]:
    """Ids of files: relative paths without suffix, without the folders that all share.

    The shared folders go so that a folder and an archive that wraps it in one have equal ids.
    Where two files differ in the suffix alone, they keep it.
    """
    folders = {name.rpartition("/")[0] for name in names}
    # Relative paths without "..": the names' own case and slashes are kept.
    shared = posixpath.commonpath(folders) if folders else ""
    cut = len(shared) + 1 if shared else 0
    stems = {name: without_suffix(name[cut:]) for name in names}
    clashes = Counter(stems.values())
    return {name: stem if clashes[stem] == 1 else name[cut:] for name, stem in stems.items()}


# --- one file ------------------------------------------------------------------------------


def load(entry: Entry) -> str:
    """The text of an entry.

    Raises:
        ValueError: with the reason, if there is no readable text.
    """
    content = entry.content
    limit = MAX_TOTAL_BYTES if entry.is_all else MAX_FILE_BYTES
    if entry.path is not None:
        content = _read_file(entry.path, limit)
    if isinstance(content, str):
        try:
            content.encode()  # a table's undecodable bytes arrive as lone surrogates
        except UnicodeEncodeError as error:
            byte = ord(content[error.start]) & 0xFF
            raise ValueError(f"is not text: byte 0x{byte:02x} is not UTF-8") from error
        return content
    if content[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                content = read_at_most(file, limit)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"is a damaged gzip file ({error})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start]
        raise ValueError(f"is not text: byte 0x{byte:02x} at {error.start} is not UTF-8") from error


def _read_file(path: str, limit: int) -> bytes:
    try:
        info = os.stat(path)  # noqa: PTH116 - Path objects cost more than reading the file
        if not stat.S_ISREG(info.st_mode):  # opening a pipe would wait for ever
            raise ValueError("is not a regular file")
        if info.st_size > limit:
            raise ValueError(f"is too large ({info.st_size / 1e6:.0f} MB)")
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()
    except OSError as error:
        raise ValueError(why_unreadable(path, error)) from error


def why_unreadable(path: str | Path, error: OSError) -> str:
    """The reason, as a clause, why a file or folder can't be opened."""
    if error.errno == errno.ELOOP:
        return "is a link that leads back to itself"
    if isinstance(error, FileNotFoundError):
        return "is a broken link" if Path(path).is_symlink() else "does not exist"
    return f"can't be read ({error.strerror or error})"


def read_at_most(file: SupportsRead, limit: int) -> bytes:
    """All of an open file.

    Raises:
        ValueError: with the reason, if it is longer than `limit` bytes.
    """
    data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"unpacks to more than {limit / 1e6:.0f} MB; refused")
    return data


# --- folders -------------------------------------------------------------------------------


def folder_source(root: str | Path) -> Source:
    """Entries of all structure files below a folder, sorted by name.

    Raises:
        InputError: if the folder itself can't be listed.
    """
    files, reasons, ignored = _walk(str(root))
    if "" in reasons:
        raise InputError(f"{root} {reasons['']}.")
    ids = file_ids(list(files))
    entries = [Entry(n, format_of(n) or "", ids[n], path=path) for n, path in files.items()]
    entries += [Entry(n, "", n, reason=reason) for n, reason in reasons.items()]
    entries.sort(key=lambda entry: entry.name)
    return Source(entries, len(entries), ignored)


def _walk(root: str) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Structure files (name -> path), what can't be opened (name -> reason), other names.

    Links are followed, but not back to a folder above them.
    """
    files: dict[str, str] = {}
    reasons: dict[str, str] = {}
    ignored: list[str] = []
    stack: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while stack:
        folder, prefix, above = stack.pop()
        try:
            info = os.stat(folder)  # noqa: PTH116
            here = (info.st_dev, info.st_ino)
            if here in above:
                reasons[prefix[:-1]] = "is a link that leads back to a folder above it"
                continue
            with os.scandir(folder) as children:
                found = list(children)
        except OSError as error:
            reasons[prefix[:-1]] = why_unreadable(folder, error)
            continue
        for child in found:
            name = prefix + printable(child.name)
            if is_hidden(child.name):
                ignored.append(name)
            elif _is_folder(child):
                stack.append((child.path, name + "/", above | {here}))
            elif format_of(name) is not None:
                files[name] = child.path
            elif child.is_symlink() and not Path(child.path).exists():
                reasons[name] = "is a broken link or one that leads back to itself"
            else:
                ignored.append(name)
    return files, reasons, ignored


def _is_folder(child: os.DirEntry[str]) -> bool:
    try:
        return child.is_dir()
    except OSError:  # a looping link: its reason is found when it is opened
        return False
