"""CIF texts with errors in them: fences, prose, unquoted blanks; and blocks with dotted names.

gemmi reads what follows the grammar. What it refuses is read here, more leniently: values that
belong to no name are passed over, and a list whose values do not fill its columns is remembered
as damaged, so that asking for it is an error. Nothing that is asked for is ever shortened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from crysmetrics.io.cif_elements import strip_quotes

_FENCE = re.compile(r"(?m)^[ \t]*(?:```|~~~).*$")
_BLOCK_START = re.compile(r"(?im)^[ \t]*data_")
_WORD = re.compile(r"\S+")


class LooseBlock:
    """Values of one data block by tag, with `find_value` and `find_values` as gemmi's has them.

    Tags are in lower case, with `_` for the dot of newer dictionaries (`_cell.length_a`).

    Args:
        name: the block's.
        damage: what to say when a list is asked for whose values are not all there.
    """

    def __init__(self, name: str, damage: str) -> None:
        self.name = name
        self._damage = damage
        self._columns: dict[str, list[str] | None] = {}

    def add(self, tag: str, values: list[str] | None) -> None:
        """Add a tag with all its values; None if they do not fill their list's columns."""
        key = tag.lower().replace(".", "_")
        if key in self._columns and key.startswith(("_atom_site_fract_", "_cell_length_")):
            values = None
        self._columns.setdefault(key, values)
        if values is None:
            self._columns[key] = None

    def over(self, other: LooseBlock) -> LooseBlock:
        """Return the same block with another's values for the tags that it lacks."""
        self._columns = {**other._columns, **self._columns}
        return self

    def has(self, tag: str) -> bool:
        """Tell whether the block has this tag, damaged or not."""
        return tag.lower().replace(".", "_") in self._columns

    def find_values(self, tag: str) -> list[str]:
        """Return all values of a tag.

        Raises:
            ValueError: if they stand in a list that is damaged.
        """
        key = tag.lower().replace(".", "_")
        values = self._columns.get(key, [])
        if values is None:
            raise ValueError(self._damage)
        return values

    def find_value(self, tag: str) -> str | None:
        """Return the only or first value of a tag, or None."""
        values = self.find_values(tag)
        return values[0] if values else None


def loose_copy(block: Any) -> LooseBlock:
    """Return a gemmi block's values, whatever dictionary its tags are from."""
    if isinstance(block, LooseBlock):
        return block
    copy = LooseBlock(block.name, "has two cells, or two lists of atom sites")
    for item in block:
        if item.pair is not None:
            copy.add(item.pair[0], [item.pair[1]])
        elif item.loop is not None:
            tags, values = item.loop.tags, item.loop.values
            for k, tag in enumerate(tags):
                copy.add(tag, values[k :: len(tags)])
    return copy


def without_wrapping(text: str) -> str | None:
    """Return the CIF inside a text of a language model, or None if nothing stands around it.

    Of a text with fenced blocks (```) these are left, else what comes after the words before the
    first `data_`.
    """
    fences = [(match.start(), match.end()) for match in _FENCE.finditer(text)]
    if fences:
        if len(fences) % 2 and _BLOCK_START.search(text, 0, fences[0][0]):
            fences.insert(0, (0, 0))  # only the closing one is there
        ends = [*(start for start, _ in fences[1:]), len(text)]
        inside = [text[at:end] for (_, at), end in zip(fences, ends, strict=True)][::2]
        blocks = [part for part in inside if _BLOCK_START.search(part)]
        if blocks:
            return "\n".join(blocks)
        text = _FENCE.sub("", text)
    start = _BLOCK_START.search(text)
    if start is None or (start.start() == 0 and not fences):
        return None
    return text[start.start() :]


def split_blocks(text: str) -> list[str]:
    """Return the text of each data block, without what stands before the first."""
    starts = [match.start() for match in _BLOCK_START.finditer(text)]
    ends = [*starts[1:], len(text)] if starts else []
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def parse_loosely(text: str, why: str) -> LooseBlock:
    """Return what can be read of one data block that breaks CIF's grammar; `why` says where."""
    tokens = list(_tokens(text))
    name = tokens[0][0][len("data_") :] if tokens else ""
    block = LooseBlock(name, f"can't be read as CIF ({why})")
    at = 1
    while at < len(tokens):
        token, line, quoted = tokens[at]
        at += 1
        if quoted or not _is_control(token):
            continue  # a word that belongs to no tag
        if token.lower() == "loop_":
            tags: list[str] = []
            while at < len(tokens) and tokens[at][0].startswith("_") and not tokens[at][2]:
                tags.append(tokens[at][0])
                at += 1
            start = at
            while at < len(tokens) and (tokens[at][2] or not _is_control(tokens[at][0])):
                at += 1
            values = [value for value, _, _ in tokens[start:at]]
            whole = bool(tags) and len(values) % len(tags) == 0
            for k, tag in enumerate(tags):
                block.add(tag, values[k :: len(tags)] if whole else None)
        elif token.startswith("_"):
            start = at
            while at < len(tokens) and (tokens[at][2] or not _is_control(tokens[at][0])):
                if at > start and tokens[at][1] != line:
                    break
                at += 1
            # Blanks without quotes: P m -3 m is one value.
            words = [value for value, _, _ in tokens[start:at]]
            if words:
                block.add(token, [" ".join(words)])
    return block


def _is_control(token: str) -> bool:
    return token.startswith("_") or token.lower() in ("loop_", "stop_", "global_")


def _tokens(text: str) -> Iterator[tuple[str, int, bool]]:
    """Yield (token, number of its line, whether it is quoted), in time linear in the text."""
    field: list[str] | None = None
    for number, line in enumerate(text.split("\n")):
        line = line.rstrip("\r")
        if field is not None:
            if not line.startswith(";"):
                field.append(line)
                continue
            yield " ".join(part.strip() for part in field), number, True
            field, line = None, line[1:]
        elif line.startswith(";"):
            field = [line[1:]]
            continue
        yield from _words(line, number)
    if field is not None:  # never closed: its lines are words like others
        for offset, line in enumerate(field):
            yield from _words(line, number - len(field) + 1 + offset)


def _words(line: str, number: int) -> Iterator[tuple[str, int, bool]]:
    if "'" not in line and '"' not in line and "#" not in line:
        yield from ((word, number, False) for word in line.split())
        return
    last = {quote: _last_closing(line, quote) for quote in "'\""}
    at = 0
    while match := _WORD.search(line, at):
        start, word = match.start(), match.group()
        if word[0] == "#":
            return
        if word[0] in last and last[word[0]] > start:
            end = start + 1
            while True:  # there is one, so this ends; what is passed is not looked at again
                end = line.index(word[0], end)
                if end + 1 == len(line) or line[end + 1].isspace():
                    break
                end += 1
            yield line[start + 1 : end], number, True
            at = end + 1
        else:
            yield strip_quotes(word) or word, number, False
            at = match.end()


def _last_closing(line: str, quote: str) -> int:
    """Find where in a line the last quote before a blank or the end stands, or -1."""
    end = len(line)
    while (end := line.rfind(quote, 0, end)) >= 0:
        if end + 1 == len(line) or line[end + 1].isspace():
            return end
    return -1
