"""Published rows of other models, to stand beside one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class PublishedRow:
    """What a paper reports for a model.

    Attributes:
        model: its name, and who measured it, if not its authors.
        dataset: `mp20`, `perov5` or `carbon24`.
        protocol: whose set-up the numbers follow.
        source: paper and table.
        values: by key of metric, in its unit.
        deviations: standard deviations over several trainings, where given.
        note: what to know before comparing.
        cite: key of the source in `works`; "" where it is no publication.
    """

    model: str
    dataset: str
    protocol: str
    source: str
    values: Mapping[str, float]
    deviations: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    cite: str = ""


@cache
def _document() -> dict[str, Any]:
    text = files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


def published_rows(dataset: str | None, protocol: str | None = None) -> list[PublishedRow]:
    """List rows on a data set, in the order of their publication; all but one protocol's left out
    if `protocol` is that of a paper."""
    rows = [PublishedRow(**row) for row in _document()["rows"]]
    of_all = protocol in (None, "full")
    return [r for r in rows if r.dataset == dataset and (of_all or r.protocol == protocol)]


def dataset_title(dataset: str) -> str:
    """Name the reference of published rows."""
    return str(_document()["datasets"][dataset]["title"])


def other_reference(dataset: str, document: Mapping[str, Any]) -> str | None:
    """Say how a document's reference differs from that of published rows; None if it does not.

    Args:
        dataset: of the published rows.
        document: `crysmetrics/1`.
    """
    reference = document["inputs"].get("ref")
    if reference is None:
        return None
    count = reference["read"] + reference["failed"]
    theirs = int(_document()["datasets"][dataset]["structures"])
    if count == theirs:
        return None
    if groups := document["settings"].get("reference_space_groups"):
        return (
            f"The reference here holds {count:,} structures of space groups {groups[0]} to "
            f"{groups[1]}; published rows have what the same filter leaves of {theirs:,}. Compare "
            "only if yours were chosen from the same ones."
        )
    return (
        f"The reference here holds {count:,} structures, that of published rows {theirs:,}. This "
        "difference alone changes coverage, EMDs and Fréchet distances."
    )


def not_comparable() -> Mapping[str, str]:
    """List metrics whose published values can't be compared with ours, with the reason."""
    reasons: dict[str, str] = _document()["not_comparable"]
    return reasons


def works() -> Mapping[str, Mapping[str, str]]:
    """List the publications that rows come from: BibTeX's fields, and its `type`, by key."""
    found: dict[str, dict[str, str]] = _document()["works"]
    return found
