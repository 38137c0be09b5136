"""Which prediction belongs to which reference, and as its how-manieth guess.

`crysgen sample --compositions REF` writes `samples.csv` beside its CIFs: `ref_id` names the
structure whose composition was asked for, `rank` counts from 1 within one asked composition. Sets
without such a table, or such properties, are paired by ids, which for folders are file names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.io.formats import without_suffix
from crysmetrics.io.samples_table import read_samples_table
from crysmetrics.io.sources import SAMPLES_TABLE

_NUMBER = re.compile(r"(?:(?P<evaluation>\d{1,6})/)?(?P<number>\d{1,9})")
PAIRINGS = ("auto", "order")
"""How structures find each other: by table, properties or ids; or by their order in both sets."""


@dataclass(frozen=True, eq=False)
class Pairing:
    """Predictions and the references that they are for.

    Attributes:
        reference: (G,) reference of each prediction that was read; -1 if it has none.
        rank: (G,) place of the prediction among those for its reference, from 1.
        lost: (L, 2) reference and rank of each prediction that could not be read.
        by: what they were paired by, for people.
        failures: what belongs to nothing, or is missing: `input`, `file`, `reason`.
    """

    reference: NDArray[np.int64]
    rank: NDArray[np.int64]
    lost: NDArray[np.int64]
    by: str
    failures: tuple[Mapping[str, str], ...] = ()

    def predictions(self, references: int, top: int | None = None) -> NDArray[np.int64]:
        """Count (references,) predictions for each, lost ones included.

        Args:
            references: how many there are.
            top: count only those of at most this rank.
        """
        owner = np.concatenate([self.reference, self.lost[:, 0]])
        rank = np.concatenate([self.rank, self.lost[:, 1]])
        counted = owner >= 0 if top is None else (owner >= 0) & (rank <= top)
        return np.bincount(owner[counted], minlength=references)


def pair(pred: Crystals, ref: Crystals, path: str | None = None, how: str = "auto") -> Pairing:
    """Pair predictions with references.

    Args:
        pred: predictions; failures among them are paired too, where their name says for what.
        ref: references.
        path: where the predictions came from; a folder or archive there may hold `samples.csv`.
        how: `auto`, or `order` for sets of equal length that belong together in their order. Of
            numbered evaluations there may be several of every reference.

    Raises:
        UserError: if a table is no good, or sets to be paired in order differ in length.
    """
    if how == "order":
        return _in_order(pred, ref)
    if how != "auto":
        raise UserError(f"Structures are paired by {' or '.join(PAIRINGS)}; not {how!r}.")
    table = None if path is None else read_table(path)
    if table is not None and any(table["ref_id"]):
        return _by_table(pred, ref, table)
    if "ref_id" in pred.properties:
        names = [str(name) for name in pred.properties["ref_id"].tolist()]
        ranks = pred.properties.get("rank")
        texts = [""] * len(names) if ranks is None else [_whole(r) for r in ranks.tolist()]
        rows = list(range(len(pred)))
        return _assemble(pred, ref, rows, list(pred.ids), names, texts, "the property ref_id")
    return _by_id(pred, ref)


# --- tables --------------------------------------------------------------------------------


def read_table(path: str | os.PathLike[str]) -> dict[str, list[str]] | None:
    """Read columns `file`, `ref_id`, `rank` of the `samples.csv` in a folder, zip or tar; or None.

    Raises:
        UserError: if there is one that can't be read, or that lacks `file` or `ref_id`.
    """
    table = read_samples_table(path)
    if table is None:
        return None
    for column in ("file", "ref_id"):
        if column not in table:
            raise UserError(f"{Path(path, SAMPLES_TABLE)} has no column named {column}.")
    return {"rank": [""] * len(table["file"]), **table}


def _by_table(pred: Crystals, ref: Crystals, table: Mapping[str, list[str]]) -> Pairing:
    position = {name: i for i, name in enumerate(pred.ids)}
    failed = {name for f in pred.failures for name in (f.file, f.file.rpartition("/")[2])}
    rows: list[int | None] = []
    missing = []
    for file in table["file"]:
        base = file.rpartition("/")[2]
        names = (without_suffix(file), file, without_suffix(base), base)
        rows.append(next((position[name] for name in names if name in position), None))
        if rows[-1] is None and file not in failed and base not in failed:
            missing.append((file, f"is named in {SAMPLES_TABLE}, but there is no such file"))
    by = f"ref_id and rank of {SAMPLES_TABLE}"
    pairing = _assemble(pred, ref, rows, table["file"], table["ref_id"], table["rank"], by)
    unlisted = set(range(len(pred))) - {row for row in rows if row is not None}
    unlisted_names = [(pred.ids[i], f"is not named in {SAMPLES_TABLE}") for i in sorted(unlisted)]
    more = tuple(_failure("gen", *f) for f in (*missing, *unlisted_names))
    return Pairing(pairing.reference, pairing.rank, pairing.lost, by, (*pairing.failures, *more))


def _assemble(
    pred: Crystals,
    ref: Crystals,
    rows: Sequence[int | None],
    names: Sequence[str],
    ref_ids: Sequence[str],
    ranks: Sequence[str],
    by: str,
) -> Pairing:
    """Make a pairing of a row for each prediction: its index (None if it was not read), the name
    of its reference, and its rank as text."""
    position = {name: i for i, name in enumerate(ref.ids)}
    numbers = _ranks(ref_ids, ranks, by)
    reference = np.full(len(pred), -1, dtype=np.int64)
    rank = np.ones(len(pred), dtype=np.int64)
    lost, failures = [], []
    for row, name, ref_id, number in zip(rows, names, ref_ids, numbers, strict=True):
        owner = position.get(ref_id)
        if owner is None:
            reason = f"is for {ref_id!r}, which is no reference" if ref_id else "has no ref_id"
            failures.append(_failure("gen", name, reason))
        elif row is None:
            lost.append((owner, number))
        if row is not None:
            reference[row], rank[row] = -1 if owner is None else owner, number
    lost_array = np.array(lost, dtype=np.int64).reshape(-1, 2)
    pairing = Pairing(reference, rank, lost_array, by, tuple(failures))
    if not (pairing.predictions(len(ref)) > 0).any():
        return _nothing(pred, ref, [name for name in ref_ids if name] or names, by)
    return pairing


def _ranks(ref_ids: Sequence[str], texts: Sequence[str], by: str) -> list[int]:
    """Read ranks as numbers; without any, predictions count in the order of rows."""
    counted: dict[str, int] = {}
    seen: set[tuple[str, int]] = set()
    empty = not any(texts)
    ranks = []
    for ref_id, text in zip(ref_ids, texts, strict=True):
        counted[ref_id] = counted.get(ref_id, 0) + 1
        number = counted[ref_id] if empty else _rank(text, by)
        if ref_id and (ref_id, number) in seen:
            raise UserError(f"By {by} there are two predictions of rank {number} for {ref_id!r}.")
        seen.add((ref_id, number))
        ranks.append(number)
    return ranks


def _rank(text: str, by: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (1 <= number < 2**31 and number == int(number)):
        raise UserError(f"By {by}: ranks are whole numbers from 1; not {text!r}.")
    return int(number)


def _whole(value: Any) -> str:
    return "" if value is None or value == "" or value != value else str(value)


# --- without a table -------------------------------------------------------------------------


def _by_id(pred: Crystals, ref: Crystals) -> Pairing:
    position = {name: i for i, name in enumerate(ref.ids)}
    reference = np.array([position.get(name, -1) for name in pred.ids], dtype=np.int64)
    # Names of files that could not be read; ids lack the folders that all files share.
    stems = [without_suffix(f.file) for f in pred.failures]
    owners = [position.get(s, position.get(s.rpartition("/")[2], -1)) for s in stems]
    lost = np.array([(i, 1) for i in owners if i >= 0], dtype=np.int64).reshape(-1, 2)
    if not (reference >= 0).any() and not len(lost):
        return _nothing(pred, ref, pred.ids, "ids")
    strays = [pred.ids[i] for i in np.flatnonzero(reference < 0)]
    failures = tuple(_failure("gen", name, "has no reference of its name") for name in strays)
    return Pairing(reference, np.ones(len(pred), dtype=np.int64), lost, "ids", failures)


def _in_order(pred: Crystals, ref: Crystals) -> Pairing:
    if len(pred) != len(ref) or pred.failures:
        numbered = _numbered(pred, len(ref))
        if numbered is not None and not ref.failures:
            return numbered
    for crystals, title in ((pred, "predictions"), (ref, "references")):
        if crystals.failures:  # where they stood is not known
            raise UserError(
                f"{len(crystals.failures)} of the {title} can't be read, so that they can't be "
                "paired in order; pair by ids."
            )
    if len(pred) != len(ref):
        raise UserError(
            f"{len(pred):,} predictions and {len(ref):,} references can't be paired in order."
        )
    index = np.arange(len(ref))
    return Pairing(index, np.ones(len(ref), dtype=np.int64), np.zeros((0, 2), np.int64), "order")


def _numbered(pred: Crystals, references: int) -> Pairing | None:
    """Pair by the numbers that readers of arrays give; None if ids are no such numbers.

    They are `k`, or `e/k` where a file holds several evaluations of every reference, as those of
    CDVAE and DiffCSP do: evaluation e is a prediction of rank e + 1. Numbers that are missing are
    predictions that could not be read.
    """
    found = [_NUMBER.fullmatch(name) for name in pred.ids]
    if not found or not all(found):
        return None
    rank = np.array([int(m["evaluation"] or 0) + 1 for m in found if m], dtype=np.int64)
    reference = np.array([int(m["number"]) for m in found if m], dtype=np.int64)
    if reference.max() >= references:
        return None
    cells = (rank - 1) * references + reference
    lost = np.setdiff1d(np.arange(int(rank.max()) * references), cells)
    if len(np.unique(cells)) != len(cells) or len(lost) != len(pred.failures):
        return None
    missing = np.stack([lost % references, lost // references + 1], axis=1)
    return Pairing(reference, rank, missing, "order")


def _nothing(pred: Crystals, ref: Crystals, names: Sequence[str], by: str) -> Pairing:
    """Make a pairing without pairs: reason enough, so that not every structure is named."""
    text = f"{by}: no prediction belongs to a reference ({names[0]!r} and the like are none of "
    text += f"{ref.ids[0]!r} and the like)"
    return Pairing(
        np.full(len(pred), -1), np.ones(len(pred), dtype=np.int64), np.zeros((0, 2), np.int64), text
    )


def _failure(role: str, name: str, reason: str) -> Mapping[str, str]:
    return {"input": role, "file": name, "reason": reason}
