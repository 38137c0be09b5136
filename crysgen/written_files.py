"""Files of a finished run: structures in several formats, pictures, and the page of candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from crysgen.file_formats import FILE_FORMATS
from crysgen.settings import SamplingSettings
from crysmetrics.io.file_names import file_names
from crysmetrics.io.formats import FORMATS

if TYPE_CHECKING:
    from crysgen.samples import Result

PAGE = "candidates.html"
"""Name of the page of candidates in the folder of a run."""
PICTURE_SUFFIX = ".svg"


def first_format(formats: Sequence[str]) -> str:
    """Choose the format whose files the table names, which is the one that folders are read in."""
    return next(name for name in FILE_FORMATS if name in formats)


def suffix_of(formats: Sequence[str]) -> str:
    """Look up the suffix of the files that the table names."""
    return FORMATS[first_format(formats)].suffixes[0]


def suffixes() -> list[str]:
    """List the suffixes of all files that a run may write for a structure."""
    return [*(FORMATS[name].suffixes[0] for name in FILE_FORMATS), PICTURE_SUFFIX]


def files(result: Result, settings: SamplingSettings) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of every file but table and record; each is made when it is its turn."""
    from crysgen.candidates_page import render

    for name in FILE_FORMATS:
        if name in settings.formats:
            yield from _structures(result, name)
    if settings.pictures:
        yield from _pictures(result)
    yield PAGE, render(result, settings)


def _structures(result: Result, name: str) -> Iterator[tuple[str, str]]:
    from crysgen.certificates import with_comments
    from crysmetrics.io.symmetrized import hall_numbers
    from crysmetrics.io.writing import cif_texts, format_texts

    if name == "cif":
        texts = cif_texts(result.crystals, hall_numbers(result.crystals))
        return with_comments(texts, result.table)
    return format_texts(result.crystals, FORMATS[name])


def _pictures(result: Result) -> Iterator[tuple[str, str]]:
    from crysmetrics.reporting.pictures import crystal_svg

    names = file_names(result.crystals.ids, PICTURE_SUFFIX)
    for name, crystal in zip(names, result.crystals, strict=True):
        text = crystal_svg(crystal)
        if text is not None:
            yield name, text
