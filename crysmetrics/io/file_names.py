"""File names for ids, fit for every file system."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_SAFE = frozenset(" ()+,;=@[]{}~^!#$&'-_.")
_PART_BYTES = 200
_PATH_BYTES = 800


def file_names(ids: tuple[str, ...], suffix: str = ".cif") -> list[str]:
    """Make relative paths for ids, distinct on every file system.

    A `/` makes folders. Letters and digits of all alphabets stay; what some file system can't
    hold in a name is percent-encoded, too long names are cut, and names that would clash (also
    by case alone) get a number.
    """
    names: list[str] = []
    taken: set[str] = set()
    last: Counter[str] = Counter()
    for structure_id in ids:
        parts = [_file_part(part) for part in structure_id.split("/")]
        # A folder x.cif would stand in the way of a file x.cif.
        parts[:-1] = [f"{p}_" if p.lower().endswith(suffix) else p for p in parts[:-1]]
        base = name = _cut("/".join(parts), _PATH_BYTES).rstrip("/")
        while _folded(name) in taken:
            last[base] += 1
            name = f"{base}~{last[base] + 1}"
        taken.add(_folded(name))
        names.append(name + suffix)
    return names


def _folded(name: str) -> str:
    """Fold what some file system takes for the same name."""
    return unicodedata.normalize("NFKC", name).casefold()


def _file_part(part: str) -> str:
    encoded = "".join(c if c.isalnum() or c in _SAFE else _percent(c) for c in part)
    # Names that begin with a dot are hidden, those that end in one or a blank lose it on Windows.
    encoded = re.sub(r"^(?=\.|$)|(?<=[. ])$", "%", encoded)
    return _cut(encoded, _PART_BYTES)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _cut(text: str, limit: int) -> str:
    """Cut a text to so many bytes of UTF-8."""
    return text.encode()[:limit].decode("utf-8", "ignore")
