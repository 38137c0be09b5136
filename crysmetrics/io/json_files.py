"""JSON as both programs write it: indented, in UTF-8, without NaN, whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from crysmetrics.io.atomic import atomic_file


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
