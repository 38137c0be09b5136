"""Where the frames of an extended XYZ text stand, also of one that is too long to be held."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MAX_COMMENT = 100_000
"""Longest comment line, in characters."""
_MIN_ROW = 7
"""Characters of the shortest row of an atom, `H 0 0 0`."""
_COUNT = re.compile(r"\d{1,12}")
"""A number of atoms; one of more digits is none."""
_MAX_FRAME = 64_000_000
"""Longest frame of a text that is not held as a whole, in characters."""


class Frame(NamedTuple):
    """Where the rows of a frame stand in the text, or why there are none."""

    comment: str = ""
    num_atoms: int = 0
    start: int = 0
    end: int = 0
    reason: str | None = None


def frames_of(text: str) -> Iterator[Frame]:
    """List the frames of a text; nothing is read after one that is damaged in its length."""
    end = len(text.rstrip())
    at = 0
    while at < end:
        stop = line_end(text, at, end)
        line = text[at:stop].strip()
        if not line:
            at = stop + 1
            continue
        if not _COUNT.fullmatch(line):
            yield Frame(reason=f"has {line[:40]!r} where a number of atoms should stand")
            return
        count = int(line)
        comment_end = line_end(text, stop + 1, end) if stop < end else end
        comment = text[stop + 1 : comment_end].removesuffix("\r")
        start = at = comment_end + 1
        if count * _MIN_ROW <= end - start + 1:
            for _ in range(count):
                at = line_end(text, at, end) + 1
                if at > end + 1:
                    break
        if count * _MIN_ROW > end - start + 1 or at > end + 1:
            rows = text.count("\n", start, end) + 1 if start < end else 0
            yield Frame(reason=f"is truncated: {min(rows, count)} of {count} atoms")
            return
        if count == 0:
            yield Frame(reason="has no atoms")
        elif len(comment) > MAX_COMMENT:
            yield Frame(reason=f"has a comment line of {len(comment)} characters")
        else:
            yield Frame(comment, count, start, at - 1)


def line_end(text: str, start: int, end: int) -> int:
    """Find the position of the next line feed; the end of the text if there is none."""
    if start > end:
        return start
    found = text.find("\n", start, end)
    return end if found < 0 else found


def frames_of_pieces(pieces: Iterable[str]) -> Iterator[tuple[str, Frame]]:
    """List frames with the texts in which they stand, of which one is held at a time."""
    rest = ""
    for piece in pieces:
        rest += piece
        end = _end_of_frames(rest)
        if end is None:
            break
        text, rest = rest[:end], rest[end:]
        yield from ((text, frame) for frame in frames_of(text))
        if len(rest) > _MAX_FRAME:
            size = f"{_MAX_FRAME / 1e6:.0f} MB"
            yield "", Frame(reason=f"is longer than {size}; what follows is not read either")
            return
    yield from ((rest, frame) for frame in frames_of(rest))


def _end_of_frames(text: str) -> int | None:
    """Find where the last whole frame ends; None if something else comes after it."""
    at = end = 0
    while (stop := text.find("\n", at)) >= 0:
        line = text[at : min(stop, at + MAX_COMMENT)].strip()
        at = stop + 1
        if not line:
            continue
        if not _COUNT.fullmatch(line):
            return None
        for _ in range(int(line) + 1):
            stop = text.find("\n", at)
            if stop < 0:
                return end
            at = stop + 1
        end = at
    return end
