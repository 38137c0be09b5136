"""JSON texts as Python values, within a bound of memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from crysmetrics.io.parsed import one_line

MAX_MEMORY = 500_000_000
"""Bytes that a JSON text may take as Python values."""

# As measured for CPython; an object is read twice, as pairs and as a dictionary.
_OBJECT, _ARRAY, _ITEM, _STRING = 350, 90, 45, 60

_MAX_DEPTH = 200
"""Deepest nesting of a large text; structures have six levels."""

# Unrolled, so that no string is looked at twice.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


class Repeated(dict[str, Any]):
    """A JSON object in which a key occurs twice; `pairs` has all of them."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def load_json(text: str) -> Any:
    """Return the JSON value; of repeated keys none is lost.

    Raises:
        ValueError: with the reason, if it is no JSON, nested too deeply, or too large.
    """
    if too_large(text):
        raise ValueError(f"is JSON of {len(text) / 1e6:.0f} MB in one record; refused")
    try:
        return json.loads(text, object_pairs_hook=_object)
    except ValueError as error:
        raise ValueError(f"is no JSON ({one_line(error)})") from error
    except RecursionError as error:
        raise ValueError("is no JSON (it is nested too deeply)") from error


def too_large(text: str, limit: int = MAX_MEMORY) -> bool:
    """Tell whether a JSON text would take more than so many bytes as Python values."""
    return len(text) * _OBJECT > limit and memory_of(text) > limit


def memory_of(text: str) -> int:
    """Estimate the bytes that a JSON text takes as Python values, by what stands in it."""
    memory = len(text) + _OBJECT * text.count("{") + _ARRAY * text.count("[")
    memory += _ITEM * text.count(",") + _STRING // 2 * text.count('"')
    return memory


def spans(text: str) -> Iterator[tuple[str | None, int, int]]:
    """Yield key (None in an array), start and end of the values within the outermost one.

    The text is not checked: what stands between two positions may be no JSON.

    Raises:
        ValueError: if it is nested too deeply.
    """
    depth, start, key = 0, 0, None
    for match in _TOKEN.finditer(text):
        token = match[0][0]
        if token == '"':
            if depth == 1:
                following = text[match.end() : match.end() + 100].lstrip()[:1]
                if following == ":":
                    key = match[0]
                else:
                    yield key, match.start(), match.end()
                    key = None
        elif token in "[{":
            if depth == 1:
                start = match.start()
            depth += 1
            if depth > _MAX_DEPTH:
                raise ValueError("is no JSON (it is nested too deeply)")
        else:
            depth -= 1
            if depth == 1:
                yield key, start, match.end()
                key = None
            elif depth <= 0:
                return
