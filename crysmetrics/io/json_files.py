"""JSON as both programs read and write it.

Written: indented, in UTF-8, without NaN, whole or not at all. Read: with limits, since files of
users may be large, or nested deeper than a parser can follow.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from crysmetrics.io.atomic import atomic_file
from crysmetrics.io.json_text import load_json

LARGEST_FILE = 4_000_000
"""Bytes of a file of settings that is read."""


def json_text(document: Any) -> str:
    """Return a document as text with a last line end.

    Raises:
        ValueError: if it holds NaN or an infinite number, which JSON has no words for.
    """
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(document: Any, path: str | Path) -> None:
    """Write a document to a file, or to standard output if its name is `-`.

    Raises:
        UserError: if the file can't be written.
    """
    text = json_text(document)
    if str(path) == "-":
        sys.stdout.write(text)
        return
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        OSError: if the file can't be read.
        ValueError: saying why it is no such file.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"it is larger than {LARGEST_FILE / 1e6:.0f} MB")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    content = load_json(text)
    if not isinstance(content, dict):
        raise ValueError("it must hold an object in braces")
    return content
