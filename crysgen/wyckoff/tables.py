"""Tables of this package that are counted from the shipped library: JSON, a line for each entry."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from crysmetrics.io.atomic import atomic_file

SYMPREC = 0.01
"""Å within which the symmetry of the library's cells, which are symmetric already, is found."""
_PACKAGE = "crysgen.wyckoff"


def read_table(name: str, key: str) -> dict[str, Any]:
    """Read the entries of a table.

    Args:
        name: of the file.
        key: under which they stand.
    """
    text = files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")
    entries: dict[str, Any] = json.loads(text)[key]
    return entries


def write_table(
    path: Path, key: str, entries: Mapping[str, Any], structures: int, **facts: str
) -> None:
    """Write a table whole.

    Args:
        path: the file.
        key: under which the entries stand.
        entries: as JSON has them, in their order.
        structures: number of crystals that were counted.
        facts: more about the table.
    """
    head = {
        "made_by": f"python -m {_PACKAGE}.{path.stem} build",
        "source": "training part of Materials Project, OQMD, Alexandria (CC BY 4.0) and JARVIS",
        **facts,
        "structures": structures,
    }
    lines = [
        f"  {json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}"
        for name, entry in entries.items()
    ]
    text = json.dumps(head, indent=1).removesuffix("\n}")
    with atomic_file(path) as temporary:
        temporary.write_text(
            text + f',\n "{key}": {{\n' + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8"
        )


def build_command(about: str, name: str, build: Callable[[Path], int]) -> None:
    """Run the program that makes a table anew.

    Args:
        about: what the program does.
        name: of the table's file.
        build: writes the table and returns the number of crystals that were counted.
    """
    parser = argparse.ArgumentParser(description=about)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("build", help="from the shipped library")
    default = Path(str(files(_PACKAGE))) / name
    command.add_argument("-o", "--output", type=Path, default=default)
    output = parser.parse_args().output
    print(f"{build(output):,} crystals counted in {output}")
