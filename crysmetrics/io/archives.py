"""Structure files inside .zip and .tar archives, read without unpacking anything to disk."""

from __future__ import annotations

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from crysmetrics.errors import InputError
from crysmetrics.io import sources
from crysmetrics.io.parsed import one_line
from crysmetrics.io.sources import (
    TAR_SUFFIXES,
    Entry,
    Source,
    file_ids,
    format_of,
    has_suffix,
    is_hidden,
    read_at_most,
)

_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, OverflowError, RuntimeError, ValueError),
)
"""What Python's archive modules raise at damaged, encrypted and exotic files."""


def archive_source(path: Path) -> Source:
    """Entries of all structure files of a .zip or .tar archive, sorted by name.

    Members with absolute or `..` paths, links and devices are refused and named.

    Raises:
        InputError: if the archive is damaged, or unpacks to more than it may.
    """
    try:
        return _tar_source(path) if has_suffix(path, TAR_SUFFIXES) else _zip_source(path)
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or one_line(error).rstrip(":")
        raise InputError(f"{path} can't be read as an archive ({reason}).") from error


def _zip_source(path: Path) -> Source:
    reasons: list[Entry] = []
    ignored: list[str] = []
    members: list[tuple[str, zipfile.ZipInfo]] = []
    archive = zipfile.ZipFile(path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    # zipfile never unpacks more of a member than the size stated here.
    _refuse_bomb(path, sum(info.file_size for info in infos))
    for info in infos:
        name = info.filename.replace("\\", "/").removeprefix("./")  # \\: old Windows tools
        kind = stat.S_IFMT(info.external_attr >> 16)
        reason = _why_refused(name, kind in (0, stat.S_IFREG), info.file_size)
        if reason is not None:
            reasons.append(Entry(name, "", name, reason=reason))
        elif _is_structure(name):
            members.append((name, info))
        else:
            ignored.append(name)
    ids = file_ids([name for name, _ in members])

    def entries() -> Iterator[Entry]:
        # Members are unpacked one by one as they are parsed: an archive need not fit in memory.
        todo: list[tuple[str, Entry | zipfile.ZipInfo]] = [*members]
        todo += [(entry.name, entry) for entry in reasons]
        with archive:
            for name, item in sorted(todo, key=lambda pair: pair[0]):
                if isinstance(item, Entry):
                    yield item
                    continue
                try:
                    with archive.open(item) as file:
                        content = read_at_most(file, sources.MAX_FILE_BYTES)
                except _DAMAGE as error:
                    yield Entry(name, "", name, reason=_why_packed(item, error))
                else:
                    yield Entry(name, format_of(name) or "", ids[name], content)

    return Source(entries(), len(members) + len(reasons), ignored)


def _why_packed(info: zipfile.ZipInfo, error: Exception) -> str:
    if info.flag_bits & 1:
        return "is encrypted"
    return f"can't be unpacked ({one_line(error)})"


def _tar_source(path: Path) -> Source:
    """A tar can only be read in its own order, so its texts wait in memory to be sorted."""
    entries: list[Entry] = []
    ignored: list[str] = []
    texts: list[tuple[str, bytes]] = []
    total = 0
    with tarfile.open(path) as archive:
        for info in archive:
            if info.isdir():
                continue
            total += info.size
            _refuse_bomb(path, total)
            name = info.name.removeprefix("./")
            reason = _why_refused(name, info.isreg(), info.size)
            if reason is not None:
                entries.append(Entry(name, "", name, reason=reason))
            elif _is_structure(name):
                file = archive.extractfile(info)
                texts.append((name, file.read() if file else b""))
            else:
                ignored.append(name)
    ids = file_ids([name for name, _ in texts])
    entries += [Entry(name, format_of(name) or "", ids[name], text) for name, text in texts]
    entries.sort(key=lambda entry: entry.name)
    return Source(entries, len(entries), ignored)


def _is_structure(name: str) -> bool:
    return format_of(name) is not None and not any(map(is_hidden, name.split("/")))


def _why_refused(name: str, regular: bool, size: int) -> str | None:
    """Why a member is not even looked at, or None."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or parts[0].endswith(":"):
        return "has a path that leads outside the archive; refused"
    if not _is_structure(name):
        return None
    if not regular:
        return "is a link or device inside an archive; refused"
    if size > sources.MAX_FILE_BYTES:
        return f"unpacks to {size / 1e6:.0f} MB; refused"
    return None


def _refuse_bomb(path: Path, size: int) -> None:
    if size > sources.MAX_TOTAL_BYTES:
        limit = sources.MAX_TOTAL_BYTES / 1e9
        raise InputError(
            f"{path} unpacks to {size / 1e9:.3g} GB, more than {limit:.3g} GB; refused."
        )
