"""Formats and cells in which structures are written."""

from __future__ import annotations

CELLS = ("primitive", "conventional")
"""Standard cells that `--cell` takes."""
FILE_FORMATS = ("cif", "poscar", "extxyz")
"""Formats of `--format`, names of `crysmetrics.io.formats`; tables name the first one written."""
