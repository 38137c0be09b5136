"""More crystals to train on: known ones with elements exchanged for similar ones.

Two elements are similar where compounds that differ by them alone have one structure. How often
they do is counted among the crystals themselves, and so is how much larger one element makes a cell
than the other; nothing else is known here of any element.

Run as a program it lists the exchanges for packed crystals, a small file beside the crystals:
`python -m crysgen.training.substitutions packed.npz -o exchanges.npz`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import InputError, UserError
from crysmetrics.io import Crystals
from crysmetrics.io.atomic import atomic_file

_ELEMENTS = 119
_TOLERANCE = 0.1
"""Å, of the space group that two crystals of one structure share."""
_FEWEST_PAIRS = 2
_UNCERTAINTY = 2.0
"""Pairs of different structures that are taken for granted for any two elements."""
_LEAST_SHARE = 0.4
"""Of pairs of compounds with one structure, for elements that are exchanged."""
_RIDGE = 0.5
_LEAST_CONFIDENCE = 0.4
"""Of a predicted structure."""
_VOTES_OF_A_COPY, _MOST_COPIES = 2, 4
"""A new crystal is trained on once for so many votes, but at least once, and not more often than
this. Of those of `val`, more votes mean nearly in proportion to their square that one is real."""

Composition = tuple[tuple[int, int], ...]
"""Elements and their numbers of atoms in a primitive cell, sorted."""


@dataclass(frozen=True)
class Similarity:
    """How alike elements are.

    Attributes:
        shares: (119, 119) of pairs of compounds that differ by these two elements alone: how many
            have one structure, cautiously; 0 where that is too few, or not known.
        sizes: (119,) natural logarithm of an element's volume, up to a constant.
    """

    shares: NDArray[np.float64]
    sizes: NDArray[np.float64]


def compositions(crystals: Crystals) -> list[Composition]:
    """List the compositions of cells as they are."""
    found = []
    for crystal in crystals:
        numbers, counts = np.unique(crystal.atomic_numbers, return_counts=True)
        found.append(tuple(zip(numbers.tolist(), counts.tolist(), strict=True)))
    return found


def similarity(crystals: Crystals, groups: NDArray[np.int64]) -> Similarity:
    """Count which elements replace each other in primitive cells.

    Args:
        crystals: in primitive cells.
        groups: their space groups.
    """
    known = compositions(crystals)
    structures: dict[Composition, set[Hashable]] = defaultdict(set)
    volumes: dict[tuple[Composition, Hashable], float] = {}
    for composition, group, volume in zip(known, groups, crystals.volumes, strict=True):
        structures[composition].add(int(group))
        volumes[composition, int(group)] = float(volume)
    same, pairs = np.zeros((2, _ELEMENTS, _ELEMENTS))
    rows, values = [], []
    for one, other, first, second in _pairs(structures):
        common = structures[first] & structures[second]
        for a, b in ((one, other), (other, one)):
            pairs[a, b] += 1
            same[a, b] += bool(common)
        for group in common:
            share = dict(first)[one] / sum(n for _, n in first)
            row = np.zeros(_ELEMENTS)
            row[one], row[other] = share, -share
            rows.append(row)
            values.append(np.log(volumes[first, group] / volumes[second, group]))
    shares = same / (pairs + _UNCERTAINTY)
    shares[(same < _FEWEST_PAIRS) | (shares < _LEAST_SHARE)] = 0
    matrix, target = np.array(rows).reshape(-1, _ELEMENTS), np.array(values)
    square = matrix.T @ matrix + _RIDGE * np.eye(_ELEMENTS)
    return Similarity(shares, np.linalg.solve(square, matrix.T @ target))


def _pairs(
    structures: dict[Composition, set[Hashable]],
) -> Iterator[tuple[int, int, Composition, Composition]]:
    """Find all pairs of compositions that differ by one element, with these elements."""
    alike: dict[Hashable, list[tuple[int, Composition]]] = defaultdict(list)
    for composition in structures:
        for place, (element, count) in enumerate(composition):
            others = composition[:place] + composition[place + 1 :]
            alike[count, others].append((element, composition))
    for members in alike.values():
        for (one, first), (other, second) in combinations(members, 2):
            yield one, other, first, second


@dataclass(frozen=True)
class Exchanges:
    """New crystals as what is exchanged in known ones.

    Attributes:
        rows: (M,) of the known crystals.
        old: (M,) atomic number of the element that goes.
        new: (M,) of the one that takes its place.
        growth: (M,) factor of the cell's edges.
        votes: (M,) how many known crystals differ from the new composition by one element, each
            counted as -ln(1 - share) of `Similarity`: real compounds are near others.
        of: SHA-256 of the known crystals.
    """

    rows: NDArray[np.int32]
    old: NDArray[np.uint8]
    new: NDArray[np.uint8]
    growth: NDArray[np.float32]
    votes: NDArray[np.float32]
    of: str

    def save(self, path: Path) -> None:
        """Write a compressed .npz."""
        with atomic_file(path) as there, there.open("wb") as file:
            np.savez_compressed(
                file,
                rows=np.diff(self.rows, prepend=0).astype(np.int32),
                old=self.old,
                new=self.new,
                growth=self.growth,
                votes=self.votes.astype(np.float16),
                of=np.array(self.of),
            )

    @classmethod
    def load(cls, path: Path) -> Exchanges:
        """Read what `save` wrote.

        Raises:
            InputError: if it is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                rows = np.cumsum(file["rows"], dtype=np.int32)
                votes = file["votes"].astype(np.float32)
                return cls(rows, file["old"], file["new"], file["growth"], votes, str(file["of"]))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path} holds no exchanges of elements: {error}") from error

    @property
    def copies(self) -> NDArray[np.int64]:
        """(M,) how often each is trained on: of compositions with more votes, more are real."""
        found = (self.votes / _VOTES_OF_A_COPY).round().clip(1, _MOST_COPIES)
        return found.astype(np.int64)

    def applied(self, crystals: Crystals) -> Crystals:
        """Make the new crystals.

        Args:
            crystals: the known ones.

        Raises:
            InputError: if these are others.
        """
        if crystals.sha256() != self.of:
            raise InputError("The exchanges of elements belong to other crystals.")
        counts = crystals.num_atoms[self.rows]
        ends = np.cumsum(counts)
        starts = np.repeat(crystals.offsets[self.rows] - (ends - counts), counts)
        atoms = starts + np.arange(ends[-1] if len(ends) else 0)
        numbers = crystals.atomic_numbers[atoms]
        numbers = np.where(
            numbers == np.repeat(self.old, counts), np.repeat(self.new, counts), numbers
        )
        pairs = zip(self.rows.tolist(), self.old.tolist(), self.new.tolist(), strict=True)
        return Crystals(
            numbers.astype(np.int64),
            crystals.frac_coords[atoms],
            crystals.lattices[self.rows] * self.growth[:, None, None].astype(float),
            counts,
            tuple(f"{crystals.ids[row]}/{old}-{new}" for row, old, new in pairs),
        )


def exchanges(crystals: Crystals, most: int | None = None) -> Exchanges:
    """Predict crystals of new compositions: those of known ones, one element exchanged.

    All known crystals that differ by one element from a composition say what its structure would
    be, each as surely as the two elements replace each other. It is taken from the surest of them,
    in a cell that grows or shrinks by the exchange, unless too many say something else.

    Args:
        crystals: in primitive cells; no new crystal has the composition of one of them.
        most: new crystals at most, those with the most votes; None for all.
    """
    from crysmetrics.symmetry import space_groups

    groups = space_groups(crystals, _TOLERANCE)
    found = similarity(crystals, groups)
    table = _all_exchanges(crystals, found)
    # All that vote for one structure of one composition, together.
    keys = np.stack([table["composition"], groups[table["row"]]], 1)
    _, which = np.unique(keys, axis=0, return_inverse=True)
    votes = -np.bincount(which, np.log1p(-table["share"]))
    order = np.lexsort([-table["share"], which])
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.diff(which[order]) > 0
    surest = table[order[first]]
    _, composition = np.unique(surest["composition"], return_inverse=True)
    of_composition = np.bincount(composition, votes)[composition]
    confidence = -np.expm1(-votes) * votes / of_composition
    # One structure of each composition, the surest.
    order = np.lexsort([-confidence, composition])
    order = order[np.diff(composition[order], prepend=-1) > 0]
    good = order[confidence[order] >= _LEAST_CONFIDENCE]
    good = good[np.argsort(-of_composition[good], kind="stable")[:most]]
    good = good[np.lexsort([surest[name][good] for name in ("new", "old", "row")])]
    chosen = surest[good]
    old, new = chosen["old"], chosen["new"]
    growth = np.exp(chosen["share_of_atoms"] * (found.sizes[new] - found.sizes[old]) / 3)
    return Exchanges(
        chosen["row"].astype(np.int32),
        old.astype(np.uint8),
        new.astype(np.uint8),
        growth.astype(np.float32),
        of_composition[good].astype(np.float32),
        crystals.sha256(),
    )


def extended(crystals: Crystals, found: Exchanges, most: int, repeats: int) -> Crystals:
    """Put crystals with exchanged elements beside the known ones.

    Args:
        crystals: known ones.
        found: exchanges for them, each there as often as its `copies` say.
        most: new crystals at most, those with the most votes.
        repeats: how often each known crystal is there.
    """
    chosen = np.sort(np.argsort(-found.votes, kind="stable")[:most])
    copies = found.copies[chosen]
    new = found.applied(crystals)[chosen]
    parts = [_copy(crystals, number) for number in range(repeats)]
    parts += [
        _copy(new[np.flatnonzero(copies > number)], number)
        for number in range(max(copies, default=0))
    ]
    return Crystals.concatenate(parts)


def _copy(crystals: Crystals, number: int) -> Crystals:
    return crystals.with_ids([f"{number}/{name}" for name in crystals.ids])


def _all_exchanges(crystals: Crystals, found: Similarity) -> NDArray[np.void]:
    """List all exchanges of one element that lead to new compositions, numbered by these."""
    codes = np.random.default_rng(0).integers(1 << 40, size=_ELEMENTS)
    fields = [("row", int), ("old", int), ("new", int), ("composition", int)]
    kind = [*fields, ("share", float), ("share_of_atoms", float)]
    known = [sum(int(codes[z]) * n for z, n in each) for each in compositions(crystals)]
    parts = []
    for row, each in enumerate(compositions(crystals)):
        elements = [z for z, _ in each]
        for old, count in each:
            new = np.flatnonzero(found.shares[old])
            new = new[~np.isin(new, elements)]
            part = np.empty(len(new), dtype=kind)
            part["row"], part["old"], part["new"] = row, old, new
            part["share"] = found.shares[old, new]
            part["share_of_atoms"] = count / sum(n for _, n in each)
            part["composition"] = known[row] + count * (codes[new] - codes[old])
            parts.append(part)
    table = np.concatenate(parts)
    return table[~np.isin(table["composition"], known)]


def main() -> None:
    """List exchanges of elements for packed crystals."""
    from crysgen.training.data import MAX_ATOMS, training_sets

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("packed", type=Path, help="of crysgen.training.data")
    parser.add_argument("-o", "--output", type=Path, required=True, help="an .npz")
    parser.add_argument("--most", type=int, help="new crystals, those with the most votes")
    arguments = parser.parse_args()
    try:
        train, _ = training_sets([arguments.packed], None, MAX_ATOMS)
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
    found = exchanges(train, arguments.most)
    found.save(arguments.output)
    size = arguments.output.stat().st_size / 2**20
    print(f"{len(found.rows):,} new crystals of {len(train):,}, {size:.1f} MiB")


if __name__ == "__main__":
    main()
