"""Compressed files, unpacked as a stream and never further than `limits` allows."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from pathlib import Path
from typing import IO, Any, Protocol

from crysmetrics.io import limits

SUFFIXES = (".gz", ".bz2", ".xz")
"""Suffixes of compressed single files."""

_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)


class SupportsRead(Protocol):
    """An open binary file, unpacked on the fly or not."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes."""


class TooLarge(ValueError):
    """Something unpacks to more than it may; the message is a clause."""


def read_at_most(file: SupportsRead, limit: int) -> bytes:
    """Read all of an open file.

    Raises:
        TooLarge: with the reason, if it is longer than `limit` bytes.
    """
    data = file.read(limit + 1)
    if len(data) > limit:
        raise TooLarge(_say_too_large(limit))
    return data


def is_compressed(head: bytes) -> bool:
    """Tell whether the first bytes of a file are those of gzip, bzip2 or xz."""
    return any(head.startswith(magic) for magic in _OPENERS)


def unpack(data: bytes, limit: int) -> bytes:
    """Unpack a compressed file; other bytes stay as they are.

    Args:
        data: the file's bytes.
        limit: of what it unpacks to, in bytes.

    Raises:
        ValueError: with the reason, if it is damaged or unpacks to more than it may.
    """
    for magic, opener in _OPENERS.items():
        if data.startswith(magic):
            try:
                with opener(io.BytesIO(data)) as file:
                    return read_at_most(file, limits.unpacked_limit(len(data), limit))
            except _DAMAGE as error:
                name = {gzip.open: "gzip", bz2.open: "bzip2"}.get(opener, "xz")
                raise ValueError(f"is a damaged {name} file ({error})") from error
    return data


def open_bounded(path: Path) -> IO[bytes]:
    """Open a file's bytes, unpacked as they are read if it is compressed.

    Reading raises `TooLarge` beyond `limits.MAX_TOTAL_BYTES` or `limits.MAX_RATIO`, and what
    gzip, bz2 and lzma raise if the file is damaged.
    """
    raw = path.open("rb")
    head = raw.read(6)
    raw.seek(0)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            limit = limits.unpacked_limit(path.stat().st_size, limits.MAX_TOTAL_BYTES)
            return io.BufferedReader(Bounded(opener(raw), limit, raw))
    return raw


class Bounded(io.RawIOBase):
    """A stream that may be read up to a limit; `TooLarge` beyond it."""

    def __init__(self, stream: IO[bytes], limit: int, *more: IO[bytes]) -> None:
        self._stream, self._limit, self._left, self._more = stream, limit, limit, more

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        view = memoryview(buffer)
        data = self._stream.read(len(view))
        self._left -= len(data)
        if self._left < 0:
            raise TooLarge(_say_too_large(self._limit))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the stream and the files below it."""
        for stream in (self._stream, *self._more):
            stream.close()
        super().close()


def _say_too_large(limit: int) -> str:
    return f"unpacks to more than {limit / 1e6:.3g} MB; refused"
