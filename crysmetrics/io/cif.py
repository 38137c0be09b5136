"""CIF reading: gemmi's C++ parser for the text, arrays for the crystal.

The structures are those of `pymatgen.core.Structure.from_str(text, fmt="cif")`: same cell
orientation, same rounding of 0.3333 to 1/3, same tolerance when symmetry is expanded. What differs
does so on purpose: where pymatgen drops sites, guesses an origin or P1 with a warning, or goes on
although the stated formula says otherwise, there is a failure; and a P1 crystal with two atoms on
top of each other is read, since judging it is a metric's work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from crysmetrics.io.cif_block import parse_block
from crysmetrics.io.cif_parts import HAS_STRUCTURE, split_large
from crysmetrics.io.cif_syntax import (
    LooseBlock,
    loose_copy,
    parse_loosely,
    split_blocks,
    without_wrapping,
)
from crysmetrics.io.crystals import Failure
from crysmetrics.io.parsed import Parsed, one_line, printable, shorten, why_no_text
from crysmetrics.io.pieces import Pieces, cut

MAX_BLOCK = 16_000_000
"""Longest part of a CIF (characters) that is parsed at once, for which gemmi takes 25 times that;
one data block can't be longer."""

_NO_SITES = "holds no atom sites"


def parse_cif(text: str, source: str, max_atoms: int | None = None) -> Iterable[Parsed | Failure]:
    """Read all structures of a CIF text, in order; a failure stands where a block can't be read.

    Blocks that describe no structure (no cell, no sites) are passed over. Of a long text, one part
    after the other is parsed, when its structures are asked for.

    Args:
        text: the file's content.
        source: the file's name, for failures.
        max_atoms: larger cells become failures before they are expanded; None allows all.
    """
    if len(text) > MAX_BLOCK:
        return parse_long_cif(cut(text), source, max_atoms)
    return _parse_at_once(text, source, max_atoms)


def parse_long_cif(
    pieces: Pieces, source: str, max_atoms: int | None = None
) -> Iterator[Parsed | Failure]:
    """Read all structures of a CIF as `parse_cif` does, of which only a part is held at a time."""
    found = False
    for number, part in enumerate(split_large(pieces, MAX_BLOCK), start=1):
        name = f"{source} part {number}"
        if part.length > MAX_BLOCK:
            if HAS_STRUCTURE.search(part.text):
                size = f"{part.length / 1e6:.0f} MB, more than the {MAX_BLOCK / 1e6:.0f} MB allowed"
                yield Failure(name, f"has a data block of {size}")
                found = True
            continue
        for item in _parse_at_once(part.text, name, max_atoms):
            if item != Failure(name, _NO_SITES):
                yield item
                found = True
    if not found:
        yield Failure(source, _NO_SITES)


def _parse_at_once(text: str, source: str, max_atoms: int | None) -> list[Parsed | Failure]:
    import gemmi

    reason = why_no_text(text)
    if reason is not None:
        return [Failure(source, reason)]
    try:
        # Checks are off because repeated block names are common in concatenated files.
        document = gemmi.cif.read_string(text, 0)
    except TypeError:  # bytes that were no text, which its strings can't hold
        return _parse_at_once(printable(text), source, max_atoms)
    except (ValueError, RuntimeError) as error:
        return _parse_broken(text, source, _say_syntax(error), max_atoms)
    # One is asked for first, since nearly all files have one.
    blocks = _structure_blocks([document[0]] if len(document) == 1 else list(document), text)
    if len(blocks) > 1:
        blocks = _without_global(blocks)
    if not blocks:
        return [Failure(source, _NO_SITES)]
    if len(blocks) == 1:
        return [_parse_named(blocks[0], source, max_atoms)]
    return [
        _parse_named(block, f"{source} block {number} ({shorten(block.name)})", max_atoms)
        for number, block in enumerate(blocks, start=1)
    ]


def _parse_named(block: Any, name: str, max_atoms: int | None) -> Parsed | Failure:
    try:
        numbers, frac, lattice = parse_block(block, max_atoms)
    except ValueError as error:
        return Failure(name, one_line(error))
    return Parsed(block.name.strip() or None, numbers, frac, lattice, name)


def _parse_broken(
    text: str, source: str, why: str, max_atoms: int | None
) -> list[Parsed | Failure]:
    """Read structures of a text with an error in it: block by block, so that only one is lost."""
    inside = without_wrapping(text)
    if inside is not None:
        return _parse_at_once(inside, source, max_atoms)
    parts = split_blocks(text)
    if len(parts) == 1:
        return [_parse_loose(text, source, why, max_atoms)]
    results: list[Parsed | Failure] = []
    for number, part in enumerate(parts, start=1):
        if HAS_STRUCTURE.search(part):
            name = shorten(part[5:60].split()[0]) if part[5:60].strip() else ""
            results += _parse_part(part, f"{source} block {number} ({name})", max_atoms)
    return results or [Failure(source, f"can't be read as CIF ({why})")]


def _parse_part(text: str, source: str, max_atoms: int | None) -> list[Parsed | Failure]:
    """Read the structure of one block's text, which may be the one with the error."""
    import gemmi

    try:
        blocks = _structure_blocks(list(gemmi.cif.read_string(text, 0)), text)
    except (ValueError, RuntimeError) as error:
        return [_parse_loose(text, source, _say_syntax(error), max_atoms)]
    return [_parse_named(block, source, max_atoms) for block in blocks]


def _parse_loose(text: str, source: str, why: str, max_atoms: int | None) -> Parsed | Failure:
    block = parse_loosely(text, why)
    if _structure_block(block) is None:
        return Failure(source, f"can't be read as CIF ({why})")
    return _parse_named(block, source, max_atoms)


def _say_syntax(error: Exception) -> str:
    """Quote gemmi's message (file:line:column: expected ...) without the file."""
    return re.sub(r"^string:(\d+):\d+(\(\d+\))?:\s*", r"line \1: ", one_line(error))


def _structure_blocks(blocks: list[Any], text: str) -> list[Any]:
    """Find blocks with atoms or a cell; others hold a publication's text."""
    found = [b for block in blocks if (b := _structure_block(block)) is not None]
    if text.count("_atom_site_fract_x") > (1 if len(found) == 1 else sum(map(_has_sites, found))):
        # Perhaps two lists of sites in one block, of which gemmi would find the first.
        copies = map(loose_copy, blocks)
        found = [copy for copy in copies if _structure_block(copy) is not None]
    return found


def _without_global(blocks: list[Any]) -> list[Any]:
    """Drop blocks called global; a cell or symmetry that only stands there holds for all.

    Some programs put the cell among what is true of all blocks, once or again.
    """
    is_global = [b.name.lower().startswith("global") and not _has_sites(b) for b in blocks]
    if not any(is_global):
        return blocks
    common = loose_copy(blocks[is_global.index(True)])
    return [
        block if block.find_value("_cell_length_a") is not None else loose_copy(block).over(common)
        for block, is_common in zip(blocks, is_global, strict=True)
        if not is_common
    ]


def _structure_block(block: Any) -> Any:
    """Normalise the tags of a block; None if it has neither atoms nor a cell."""
    if isinstance(block, LooseBlock):
        return block if block.has("_cell_length_a") or _has_sites(block) else None
    if block.find_value("_cell_length_a") is not None and _has_sites(block):
        return block
    # Newer dictionaries have dots in their names.
    return _structure_block(loose_copy(block))


def _has_sites(block: Any) -> bool:
    if isinstance(block, LooseBlock):
        return block.has("_atom_site_fract_x")
    return bool(
        block.find_loop("_atom_site_fract_x") or block.find_value("_atom_site_fract_x") is not None
    )
