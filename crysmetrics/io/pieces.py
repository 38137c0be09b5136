"""Long texts piece by piece, so that a file takes no more memory than a few of its pieces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from crysmetrics.io import limits
from crysmetrics.io.entries import Entry
from crysmetrics.io.loading import open_plain, why_unreadable
from crysmetrics.io.texts import decoded, find_encoding
from crysmetrics.io.unpacking import is_compressed

Pieces = Callable[[], Iterable[str]]
"""Gives the text from its beginning, each time that it is called."""

PIECE = 16_000_000
"""Bytes of a file that are decoded at once."""
LONG = 4 * PIECE
"""Bytes of a file from which it is read in pieces, if its format can be."""
_HEAD = 16
_LONG_LINE = 1_000_000
"""Characters of a line from which it may be cut."""


def pieces_of(entry: Entry) -> Pieces | None:
    """Return the text of a long file; None if it is short, or compressed, which has other limits.

    Raises:
        ValueError: with the reason, if the file holds no text.
    """
    path = entry.path
    if path is None:
        return None
    try:
        if os.stat(path).st_size <= LONG:  # noqa: PTH116 - Path objects cost more than reading
            return None
        with open_plain(path, limits.MAX_TOTAL_BYTES if entry.is_all else None) as file:
            if is_compressed(file.read(_HEAD)):
                return None
        encoding = find_encoding(lambda: _bytes(path))
    except OSError as error:
        raise ValueError(why_unreadable(path, error)) from error
    return lambda: decoded(_bytes(path), encoding)


def _bytes(path: str | os.PathLike[str]) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - as all files of structures
        while piece := file.read(PIECE):
            yield piece


def cut(text: str) -> Pieces:
    """Return a text that is held as pieces, so that its parts are copied one by one."""
    return lambda: (text[at : at + PIECE] for at in range(0, len(text), PIECE))


def at_line_ends(pieces: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Cut pieces after line ends, but for lines that are very long.

    Yields:
        A piece of the text, and whether it begins a line.
    """
    rest, begins = "", True
    for piece in pieces:
        rest += piece
        end = rest.rfind("\n") + 1
        if end:
            yield rest[:end], begins
            rest, begins = rest[end:], True
        if len(rest) > _LONG_LINE:
            yield rest, begins
            rest, begins = "", False
    if rest:
        yield rest, begins
