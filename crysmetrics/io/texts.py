"""Bytes as text: the encodings that structure files come in."""

from __future__ import annotations

import codecs
import re

# The longer marks first: UTF-32's begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1b\x1c-\x1f\x7f]")


def encoding_of(head: bytes) -> str | None:
    """Return the encoding that a byte order mark states, or None without one."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def decode(data: bytes) -> str:
    """Decode the text of a file: UTF-8, UTF-16 and UTF-32 with a byte order mark, or Latin-1.

    Raises:
        ValueError: with the reason, if it is no text.
    """
    encoding = encoding_of(data)
    try:
        return data.decode(encoding or "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        reason = f"is not text: byte 0x{byte:02x} at {error.start} is not {error.encoding.upper()}"
        if encoding is None and _is_latin1(data):
            # Windows' variant of Latin-1 has quotes and dashes where Latin-1 has controls.
            try:
                return data.decode("cp1252")
            except UnicodeDecodeError:
                return data.decode("latin-1")
        raise ValueError(reason) from error


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


def _is_latin1(data: bytes) -> bool:
    """Tell whether bytes that are no UTF-8 look like text in a language with some accents."""
    high = len(data) - len(data.translate(None, bytes(range(128, 256))))
    return _CONTROL.search(data) is None and high <= 0.3 * len(data) + 1
