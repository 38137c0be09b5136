"""Entries parsed into `Crystals`, in processes if there are many.

Here alone it is held that whatever a parser does, it becomes that file's failure.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from itertools import chain, islice

from crysmetrics.errors import InputError
from crysmetrics.io import limits
from crysmetrics.io.builder import CrystalsBuilder, say_duplicate
from crysmetrics.io.crystals import Crystals, Failure
from crysmetrics.io.entries import Entry, Source
from crysmetrics.io.formats import FORMATS
from crysmetrics.io.loading import load
from crysmetrics.io.parsed import Parsed, one_line, printable
from crysmetrics.io.pieces import pieces_of
from crysmetrics.parallel import process_pool, submit
from crysmetrics.progress import task
from crysmetrics.spill import Names

_CHUNK = 200
_PATIENCE = 3.0
"""Seconds of reading after which processes are started, which itself takes a second or more."""

_MAX_PROPERTIES = 3000
"""Most different properties of a set; further ones are left out, with a word."""

log = logging.getLogger(__name__)


def parsed_parts(
    source: Source, max_atoms: int | None, workers: int, seen: dict[str, str] | Names
) -> Iterator[Crystals]:
    """Yield small parts in order; ids, which `seen` keeps, are distinct over all of them."""
    found = failed = 0
    names: dict[str, bool] = {}
    with task("Reading structures", source.total) as advance:
        for part, sources in _parse_chunks(_chunks(source.entries), max_atoms, workers):
            found += len(part)
            failed += len(part.failures)
            if _are_too_many(failed, found):
                raise InputError(f"The input {_say_too_many(part.failures[-1])}")
            yield _with_few_properties(_without_duplicates(part, sources, seen), names)
            advance(part.num_total)


def _with_few_properties(part: Crystals, names: dict[str, bool]) -> Crystals:
    """Return the part without properties beyond the most that a set may have.

    Args:
        part: some structures of a set.
        names: of the properties met so far, and whether they are kept; grows.
    """
    kept_so_far = sum(names.values())
    for name in part.properties:
        if name not in names and len(names) <= _MAX_PROPERTIES:
            names[name] = kept_so_far < _MAX_PROPERTIES
            kept_so_far += names[name]
            if not names[name]:
                log.warning(f"More than {_MAX_PROPERTIES} properties; the others are left out.")
    if all(names.get(name, False) for name in part.properties):
        return part
    kept = {name: values for name, values in part.properties.items() if names.get(name)}
    return replace(part, properties=kept)


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _parse_chunks(
    chunks: Iterator[list[Entry]], max_atoms: int | None, workers: int
) -> Iterator[tuple[Crystals, list[str]]]:
    begun = time.monotonic()
    for chunk in chunks:
        if workers > 1 and time.monotonic() - begun > _PATIENCE:
            chunks = chain([chunk], chunks)
            break
        yield _parse_chunk(chunk, max_atoms)
    else:
        return
    # This pool belongs to this call alone, so that calls in several threads do not interfere.
    with process_pool(workers) as pool:
        pending: deque[Future[tuple[Crystals, list[str]]]] = deque()
        try:
            for chunk in chunks:
                pending.append(submit(pool, _parse_chunk, chunk, max_atoms))
                if len(pending) > 3 * workers:  # bounds the memory that waiting texts take
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # After an error or Ctrl-C: what has not begun need not. (Killing what has begun would
            # save less than a second, and makes loky's own thread print a traceback at times.)
            for future in pending:
                future.cancel()


def _parse_chunk(chunk: list[Entry], max_atoms: int | None) -> tuple[Crystals, list[str]]:
    """Read crystals of some entries, and for each structure the name of its source."""
    try:
        return _parse_together(chunk, max_atoms)
    except Exception as error:
        # Whatever a file does, it becomes a failure with its name.
        if len(chunk) == 1:
            return Crystals.empty([Failure(chunk[0].name, _say_unexpected(error))]), []
    parts = [_parse_chunk([entry], max_atoms) for entry in chunk]
    seen: dict[str, str] = {}
    crystals = [_without_duplicates(part, sources, seen) for part, sources in parts]
    kept = [seen[structure_id] for part in crystals for structure_id in part.ids]
    return Crystals.concatenate(crystals), kept


def _parse_together(chunk: list[Entry], max_atoms: int | None) -> tuple[Crystals, list[str]]:
    builder = CrystalsBuilder(max_atoms)
    names: set[str] = set()
    for entry in chunk:
        parsed = _parse_entry(entry, max_atoms)
        ids = map(printable, _ids_within(entry, parsed))
        for structure_id, item in zip(ids, parsed, strict=True):
            if isinstance(item, Failure):
                builder.fail(item.file, item.reason)
                continue
            names.update(item.properties)
            # Further ones are left out anyway, and each costs time for every structure.
            properties = item.properties if len(names) <= 2 * _MAX_PROPERTIES else {}
            builder.add(
                structure_id,
                item.numbers,
                item.frac_coords,
                item.lattice,
                source=item.source,
                properties=properties,
            )
    return builder.build_with_sources()


def _parse_entry(entry: Entry, max_atoms: int | None) -> list[Parsed | Failure]:
    """Read structures and failures of an entry, whatever its parser raises."""
    if entry.reason is not None:
        return [Failure(entry.name, entry.reason)]
    try:
        if entry.job is not None:
            found = _collect(entry.job(max_atoms), entry.name)
        else:
            found = _collect(_parse_text(entry, max_atoms), entry.name)
    except ValueError as error:
        return [Failure(entry.name, one_line(error))]
    except Exception as error:
        return [Failure(entry.name, _say_unexpected(error))]
    if not entry.properties:
        return found
    return [
        item._replace(properties={**item.properties, **entry.properties})
        if isinstance(item, Parsed)
        else item
        for item in found
    ]


def _parse_text(entry: Entry, max_atoms: int | None) -> Iterable[Parsed | Failure]:
    found = FORMATS[entry.format]
    pieces = pieces_of(entry) if found.parse_long is not None else None
    if found.parse_long is not None and pieces is not None:
        return found.parse_long(pieces, entry.name, max_atoms)
    assert found.parse is not None  # entries are made for formats that have one
    return found.parse(load(entry), entry.name, max_atoms)


def _collect(items: Iterable[Parsed | Failure], name: str) -> list[Parsed | Failure]:
    """Collect all items of one text, unless more of them fail than any text has structures."""
    found: list[Parsed | Failure] = []
    failed = 0
    for item in items:
        found.append(item)
        failed += isinstance(item, Failure)
        if _are_too_many(failed, len(found) - failed):
            return [Failure(name, _say_too_many(item)[:-1])]  # type: ignore[arg-type]
    return found or [Failure(name, "holds no structures")]


def _say_unexpected(error: Exception) -> str:
    """Say, as a clause, that a parser failed unexpectedly at a file."""
    if isinstance(error, MemoryError):
        return "takes more memory than there is"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return f"can't be read ({type(error).__name__}: {one_line(error)})"


def _are_too_many(failed: int, found: int) -> bool:
    """Tell whether so many failures are reason to refuse an input as a whole."""
    return failed > (limits.MAX_FAILURES if found else limits.MAX_FAILURES_AT_FIRST)


def _say_too_many(failure: Failure) -> str:
    return (
        f"holds more than {limits.MAX_FAILURES_AT_FIRST:,} structures that can't be read; "
        f"{failure.file} {failure.reason}."
    )


def _ids_within(entry: Entry, parsed: list[Parsed | Failure]) -> list[str]:
    """Make the ids of an entry's structures.

    A text with one structure gives it the entry's id. Several have the names that the text
    gives them, if those are distinct, else their position; below the entry's id, unless the
    text is all that is read and names every structure itself.
    """
    names = [item.name if isinstance(item, Parsed) else None for item in parsed]
    is_cif = entry.format == "cif"  # of its blocks
    if len(parsed) == 1:
        # A CIF block's name is a formula more often than an id.
        return [names[0] if entry.is_all and names[0] and not is_cif else entry.id]
    if entry.is_all and not is_cif:
        # Ids given by records are kept; one used twice is a failure, not a new id.
        return [name or f"{entry.id}-{k}" for k, name in enumerate(names)]
    counts = Counter(names)
    return [
        f"{entry.id}/{name}" if name and counts[name] == 1 else f"{entry.id}/{k}"
        for k, name in enumerate(names)
    ]


def _without_duplicates(
    part: Crystals, sources: list[str], seen: dict[str, str] | Names
) -> Crystals:
    """Return the part without structures whose id an earlier part used; those become failures."""
    keep, failures = [], list(part.failures)
    for k, (structure_id, source) in enumerate(zip(part.ids, sources, strict=True)):
        if (first := seen.get(structure_id)) is not None:
            failures.append(Failure(source, say_duplicate(structure_id, first)))
        else:
            seen[structure_id] = source
            keep.append(k)
    if len(keep) == len(part):
        return part
    return part[keep].with_failures(failures)
