"""Long CIFs in parts of whole data blocks: no more is held of a text than one part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from crysmetrics.io.pieces import Pieces, at_line_ends

HAS_STRUCTURE = re.compile(r"(?im)^[ \t]*_(cell[_.]length_a|atom_site[_.])")

_FIELD = re.compile(r"(?m)^;")
_FIELD_OR_BLOCK = re.compile(r"(?im)^(?:;|[ \t]*data_)")
_LONG_FIELD = 10_000
"""Characters of a text that is left out of a block that is too long with it."""


class Part(NamedTuple):
    """One or several data blocks of a long CIF."""

    text: str
    """Of a single block that is too long to be held: the tag of a structure in it, if any."""
    length: int
    """Characters, without texts that are left out."""


def split_large(pieces: Pieces, most: int) -> Iterator[Part]:
    """Yield parts of whole data blocks, each of at most `most` characters if its blocks are.

    A long text in a block (a list of reflections, say) is left out where the block is too long
    with it.
    """
    # A semicolon that begins a line begins or ends a text, in which nothing begins a block. Where
    # one is missing, all that looks like a block is one.
    fields = sum(
        len(_FIELD.findall(text)) - (text.startswith(";") and not begins)
        for text, begins in at_line_ends(pieces())
    )
    is_whole = fields % 2 == 0
    inside = False
    part, block = _Blocks(most, is_whole), _Blocks(most, is_whole)
    for text, begins in at_line_ends(pieces()):
        at = 0
        for match in _FIELD_OR_BLOCK.finditer(text):
            if match.start() == 0 and not begins:
                continue
            if match[0] == ";":
                inside = is_whole and not inside
            elif not inside:
                block.add(text[at : match.start()], inside=False)
                at = match.start()
                if part.length and part.length + block.length > most:
                    yield part.taken()
                part.join(block)
        block.add(text[at:], inside)
    if part.length and part.length + block.length > most:
        yield part.taken()
    part.join(block)
    yield part.taken()


class _Blocks:
    """Text of some data blocks, of which only the first may be longer than a part."""

    def __init__(self, most: int, is_whole: bool) -> None:
        self._most, self._is_whole = most, is_whole
        self._clear()

    def _clear(self) -> None:
        self.length = 0
        """Characters that were added."""
        self._texts: list[str] = []
        self._held = 0
        self._allowed = 2 * self._most
        self._skipped: int | None = None
        """Characters of a block that is too long to be held; its text is the tag that was found."""

    def add(self, text: str, inside: bool) -> None:
        """Add text; `inside` tells whether a text between semicolons goes on after it."""
        self.length += len(text)
        if self._skipped is not None:
            self._skipped += len(text)
            self._keep_tag(text)
            return
        self._texts.append(text)
        self._held += len(text)
        if self._held > self._allowed:
            self._shrink(inside)

    def join(self, other: _Blocks) -> None:
        """Add other blocks, which are emptied."""
        self.length += other.length
        self._texts += other._texts
        self._held += other._held
        self._skipped = other._skipped
        other._clear()

    def taken(self) -> Part:
        """Return all as a part, and hold nothing."""
        text, skipped = "".join(self._texts), self._skipped
        self._clear()
        if skipped is not None:
            return Part(text, skipped)
        if len(text) > self._most:
            text = _without_long_fields(text, inside=False)
        return Part(text, len(text))

    def _shrink(self, inside: bool) -> None:
        text = "".join(self._texts)
        if self._is_whole:
            text = _without_long_fields(text, inside)
        self._texts, self._held = [text], len(text)
        self._allowed = self._held + self._most
        if self._held > 2 * self._most + _LONG_FIELD:
            self._texts, self._skipped = [], self._held
            self._keep_tag(text)

    def _keep_tag(self, text: str) -> None:
        if not self._texts and (match := HAS_STRUCTURE.search(text)):
            self._texts.append(match[0])


def _without_long_fields(text: str, inside: bool) -> str:
    """Leave long texts between semicolons out; of one that goes on, enough is kept to tell."""
    parts = _FIELD.split(text)
    if len(parts) % 2 == inside:
        return text
    going_on = parts.pop() if inside else None
    parts[1::2] = [part if len(part) < _LONG_FIELD else "\n" for part in parts[1::2]]
    if going_on is not None:
        is_long = len(going_on) > _LONG_FIELD
        parts.append(going_on[:_LONG_FIELD] + going_on[-1] if is_long else going_on)
    return ";".join(parts)
