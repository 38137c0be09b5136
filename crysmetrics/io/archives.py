"""Structure files inside .zip and .tar archives.

What an archive says about itself is not trusted: names and sizes are counted as they are read, and
an archive that asks for too much is refused before it has got it.
"""

from __future__ import annotations

import lzma
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from crysmetrics.errors import InputError
from crysmetrics.io import limits
from crysmetrics.io.entries import Entry, Source
from crysmetrics.io.formats import searched_format, without_suffix
from crysmetrics.io.parsed import one_line
from crysmetrics.io.sources import copies, file_ids, format_name, has_suffix, is_hidden
from crysmetrics.io.unpacking import TooLarge, open_bounded, read_at_most

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SUFFIXES = (".zip", *TAR_SUFFIXES)
"""Suffixes of archives."""

_IN_MEMORY = 64 * 1024**2
"""Bytes of a tar's texts that wait in memory; more of them wait in a nameless temporary file."""
_LONG_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
"""Kinds of tar headers that hold a name or attributes, which are read whole."""

_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, OverflowError, RuntimeError, ValueError),
)
"""What Python's archive modules raise at damaged, encrypted and exotic files."""


def set_name(name: str) -> str:
    """Return the name of a set's file or folder without the suffixes of archives and formats."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return without_suffix(name[: -len(suffix)])
    return without_suffix(name)


def archive_source(path: Path) -> Source:
    """List the entries of all structure files of a .zip or .tar archive, sorted by name.

    Members with absolute or `..` paths, links and devices are refused and named.

    Raises:
        InputError: if the archive is damaged, or unpacks to more than it may.
    """
    try:
        return _tar_source(path) if has_suffix(path, TAR_SUFFIXES) else _zip_source(path)
    except TooLarge as error:
        raise InputError(f"{path} {error}.") from error
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or one_line(error).rstrip(":")
        raise InputError(f"{path} can't be read as an archive ({reason}).") from error


class _Names:
    """Counts the members of an archive of `packed` bytes and the lengths of their names."""

    def __init__(self, packed: int) -> None:
        self._count = self._bytes = 0
        most = limits.MEMBERS_FLOOR + packed // limits.MIN_MEMBER_BYTES
        self._most = min(limits.MAX_MEMBERS, most)

    def add(self, name: str) -> None:
        """Count one more.

        Raises:
            TooLarge: if there are too many, or their names are too long.
        """
        self._count += 1
        self._bytes += len(name)
        if self._count > self._most:
            raise TooLarge(f"holds more than {self._most:,} files; refused")
        if self._bytes > limits.MAX_NAMES_BYTES:
            size = limits.MAX_NAMES_BYTES / 1e6
            raise TooLarge(f"holds names of files of more than {size:.0f} MB together; refused")


def _zip_source(path: Path) -> Source:
    reasons: list[Entry] = []
    ignored: list[str] = []
    members: list[tuple[str, zipfile.ZipInfo]] = []
    archive = zipfile.ZipFile(path)
    infos = [info for info in archive.infolist() if not info.is_dir()]
    names = _Names(path.stat().st_size)
    # zipfile never unpacks more of a member than the size stated here.
    _refuse_bomb(sum(info.file_size for info in infos), path.stat().st_size)
    for info in infos:
        name = info.filename.replace("\\", "/").removeprefix("./")  # \\: old Windows tools
        names.add(name)
        kind = stat.S_IFMT(info.external_attr >> 16)
        reason = _why_refused(name, kind in (0, stat.S_IFREG), info.file_size)
        if reason is not None:
            short = name[: limits.MAX_NAME_BYTES]
            reasons.append(Entry(short, "", short, reason=reason))
        elif _is_structure(name):
            members.append((name, info))
        else:
            ignored.append(name)
    extra = copies([name for name, _ in members], ignored)
    members = [(name, info) for name, info in members if name not in extra]
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
                        content = read_at_most(file, limits.MAX_FILE_BYTES)
                except _DAMAGE as error:
                    yield Entry(name, "", name, reason=_why_packed(item, error))
                else:
                    yield Entry(name, format_name(name), ids[name], content)

    return Source(entries(), len(members) + len(reasons), ignored)


def _why_packed(info: zipfile.ZipInfo, error: Exception) -> str:
    if info.flag_bits & 1:
        return "is encrypted"
    if isinstance(error, TooLarge):
        return str(error)
    return f"can't be unpacked ({one_line(error)})"


class _Member(tarfile.TarInfo):
    """A header of a tar archive; one that holds a name longer than any is refused unread."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        found = super().frombuf(buf, encoding, errors)
        if found.type in _LONG_HEADERS and not 0 <= found.size <= 16 * limits.MAX_NAME_BYTES:
            raise TooLarge(f"holds a file name of {found.size:,} bytes; refused")
        return found


def _tar_source(path: Path) -> Source:
    """List the texts of a tar sorted by name, which wait, as it is read in its own order."""
    reasons: list[Entry] = []
    ignored: list[str] = []
    places: dict[str, list[tuple[int, int]]] = {}
    names = _Names(path.stat().st_size)
    waiting: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    with (
        open_bounded(path) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive,
    ):
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
            if info.isdir():
                continue
            name = info.name.removeprefix("./")
            names.add(name)
            reason = _why_refused(name, info.isreg(), info.size)
            if reason is not None:
                short = name[: limits.MAX_NAME_BYTES]
                reasons.append(Entry(short, "", short, reason=reason))
            elif _is_structure(name):
                file = archive.extractfile(info)
                text = b"" if file is None else file.read()
                places.setdefault(name, []).append((waiting.tell(), len(text)))
                waiting.write(text)
            else:
                ignored.append(name)
    for name in copies([*places], ignored):
        del places[name]
    ids = file_ids([*places])

    def entries() -> Iterator[Entry]:
        todo: list[tuple[str, Entry | tuple[int, int]]] = [(e.name, e) for e in reasons]
        todo += [(name, place) for name, found in places.items() for place in found]
        with waiting:
            for name, item in sorted(todo, key=lambda pair: pair[0]):
                if isinstance(item, Entry):
                    yield item
                else:
                    waiting.seek(item[0])
                    yield Entry(name, format_name(name), ids[name], waiting.read(item[1]))

    return Source(entries(), sum(map(len, places.values())) + len(reasons), ignored)


def _is_structure(name: str) -> bool:
    return searched_format(name) is not None and not any(map(is_hidden, name.split("/")))


def _why_refused(name: str, regular: bool, size: int) -> str | None:
    """Say why a member is not looked at; None if it is."""
    if len(name) > limits.MAX_NAME_BYTES:
        return f"has a name of {len(name):,} characters; refused"
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or parts[0].endswith(":"):
        return "has a path that leads outside the archive; refused"
    if not _is_structure(name):
        return None
    if not regular:
        return "is a link or device inside an archive; refused"
    if size > limits.MAX_FILE_BYTES:
        return f"unpacks to {size / 1e6:.0f} MB; refused"
    return None


def _refuse_bomb(size: int, packed: int) -> None:
    """Raise `TooLarge` if an archive of `packed` bytes says that it unpacks to too much."""
    limit = limits.unpacked_limit(packed, limits.MAX_TOTAL_BYTES)
    if size > limit:
        raise TooLarge(f"unpacks to {size / 1e9:.3g} GB, more than {limit / 1e9:.3g} GB; refused")
