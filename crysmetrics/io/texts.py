"""Bytes as text: the encodings that structure files come in."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator

# The longer marks first: UTF-32's begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDEST = re.compile(rb"[\xf0-\xf7]")
"""Begins a character in UTF-8 that takes four bytes, as then all of a text do in memory."""
_PIECE = 1 << 24
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1b\x1c-\x1f\x7f]")


def encoding_of(head: bytes) -> str | None:
    """Return the encoding that a byte order mark states, or None without one."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def decode(data: bytes) -> str:
    """Decode the text of a file: UTF-8, UTF-16 and UTF-32 with a byte order mark, or Latin-1.

    Raises:
        ValueError: with the reason, if it is no text.
    """
    try:
        return data.decode(encoding_of(data) or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        starts = range(0, len(data), _PIECE)
        return data.decode(find_encoding(lambda: (data[at : at + _PIECE] for at in starts)))


def memory_of(data: bytes) -> int:
    """Estimate the bytes that a text takes, encoded and decoded together."""
    if data.isascii():
        width = 1
    elif encoding_of(data) in ("utf-16", "utf-32"):
        width = 2
    else:
        width = 4 if _WIDEST.search(data) else 2
    return len(data) * (1 + width)


def find_encoding(pieces: Callable[[], Iterable[bytes]]) -> str:
    """Find the encoding of a file whose bytes are given piece by piece.

    Raises:
        ValueError: with the reason, if it is no text.
    """
    stated = encoding_of(next(iter(pieces()), b""))
    reason = _why_not(stated or "utf-8", pieces())
    if reason is None:
        return stated or "utf-8"
    if stated is None and _are_latin1(pieces()):
        # Windows' variant of Latin-1 has quotes and dashes where Latin-1 has controls.
        return "latin-1" if _why_not("cp1252", pieces()) else "cp1252"
    raise ValueError(reason)


def _why_not(encoding: str, pieces: Iterable[bytes]) -> str | None:
    """Say where bytes are no text in an encoding; None if they are."""
    decoder = codecs.getincrementaldecoder(encoding)()
    at = 0
    for piece, is_last in _with_last(pieces):
        waiting = len(decoder.getstate()[0])
        try:
            decoder.decode(piece, is_last)
        except UnicodeDecodeError as error:
            byte, where = error.object[error.start], at - waiting + error.start
            name = error.encoding.upper()
            return f"is not text: byte 0x{byte:02x} at {where} is not {name}"
        at += len(piece)
    return None


def _with_last(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for piece in pieces:
        yield piece, False
    yield b"", True


def decoded(pieces: Iterable[bytes], encoding: str) -> Iterator[str]:
    """Decode a text piece by piece."""
    decoder = codecs.getincrementaldecoder(encoding)()
    is_first = True
    for piece, is_last in _with_last(pieces):
        text = decoder.decode(piece, is_last)
        if text:
            yield text.removeprefix("\ufeff") if is_first else text
            is_first = False


def decode_cell(text: str) -> str:
    """Decode a part of a text, decoded as UTF-8 with `surrogateescape`, in its own encoding.

    Raises:
        ValueError: with the reason, if it is no text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return decode(text.encode("utf-8", "surrogateescape"))
    return text


def _are_latin1(pieces: Iterable[bytes]) -> bool:
    """Tell whether bytes that are no UTF-8 look like text in a language with some accents."""
    total = high = 0
    for piece in pieces:
        if _CONTROL.search(piece):
            return False
        total += len(piece)
        high += len(piece) - len(piece.translate(None, bytes(range(128, 256))))
    return high <= 0.3 * total + 1
