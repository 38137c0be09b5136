"""Batches of static shapes: classes of sizes, and the order in which crystals are seen in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crysgen.networks.neighbours import SMALL

_FEWEST = 300
"""Crystals of a class, unless cells of very different sizes would share it."""
_MOST = 4096
"""Crystals of a batch."""


@dataclass(frozen=True)
class SizeClass:
    """Crystals that are batched together, padded to one size.

    Attributes:
        size: atoms of the largest.
        rows: which crystals.
        count: crystals of a batch; more than `rows` has where these are few.
    """

    size: int
    rows: NDArray[np.int64]
    count: int


@dataclass(frozen=True)
class Block:
    """Batches that are prepared together.

    Attributes:
        number: of the block.
        order: class of each batch.
        rows: (batches, crystals of a batch) of each class that is in it.
    """

    number: int
    order: NDArray[np.int64]
    rows: dict[int, NDArray[np.int64]]


def size_classes(num_atoms: NDArray[np.int64], batch_atoms: int) -> list[SizeClass]:
    """Divide crystals by size into classes that are large enough, and not too wide.

    Args:
        num_atoms: (B,) of the crystals.
        batch_atoms: atoms of a batch, padding included.
    """
    classes: list[SizeClass] = []
    rows: list[int] = []
    sizes = np.unique(num_atoms).tolist()
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        rows += np.flatnonzero(num_atoms == size).tolist()
        smallest = int(num_atoms[rows[0]])
        too_wide = following is not None and following > max(SMALL, 2 * smallest)
        if following is None or too_wide or len(rows) >= _FEWEST:
            count = max(1, min(batch_atoms // size, _MOST))
            classes.append(SizeClass(size, np.array(rows), count))
            rows = []
    return classes


class ClassOrder:
    """The order of batches of one class each; every crystal is as frequent as every other.

    A class is seen in permutations of its crystals, one after the other, cut into batches. Batch i
    is a function of seed and i, so that a resumed run goes on as it would have.

    Args:
        num_atoms: (B,) of the crystals.
        batch_atoms: atoms of a batch, padding included.
        seed: of the order.
        block: batches that are prepared together.
    """

    def __init__(
        self, num_atoms: NDArray[np.int64], batch_atoms: int, seed: int, block: int = 64
    ) -> None:
        self.classes = size_classes(num_atoms, batch_atoms)
        self.seed, self.block = seed, block
        batches = np.array([len(c.rows) / c.count for c in self.classes])
        self._upper = np.cumsum(batches / batches.sum())

    def blocks(self, first: int = 0) -> Iterator[Block]:
        """Iterate over blocks without end, from the one that holds batch `first`."""
        taken = np.zeros(len(self.classes), dtype=np.int64)
        number = 0
        while True:
            order = self._order(number)
            if number >= first // self.block:
                yield Block(number, order, self._rows(order, taken))
            taken += np.bincount(order, minlength=len(self.classes))
            number += 1

    def crystals_before(self, batch: int) -> int:
        """Count the crystals of all batches before this one."""
        counts = np.array([c.count for c in self.classes])
        full, rest = divmod(batch, self.block)
        seen = sum(int(counts[self._order(number)].sum()) for number in range(full))
        return seen + int(counts[self._order(full)[:rest]].sum())

    def _order(self, number: int) -> NDArray[np.int64]:
        """Classes of a block's batches: as even as whole numbers are, then shuffled."""
        rng = np.random.default_rng([self.seed, number])
        places = (np.arange(self.block) + rng.random()) / self.block
        found = np.searchsorted(self._upper, places).clip(max=len(self.classes) - 1)
        return rng.permutation(found)

    def _rows(
        self, order: NDArray[np.int64], taken: NDArray[np.int64]
    ) -> dict[int, NDArray[np.int64]]:
        """Rows of a block's batches, where `taken` batches of each class came before it."""
        found = {}
        for k in np.unique(order).tolist():
            rows, count = self.classes[k].rows, self.classes[k].count
            begin = int(taken[k]) * count
            end = begin + int((order == k).sum()) * count
            passes = range(begin // len(rows), -(-end // len(rows)))
            seen = np.concatenate([self._permutation(k, number) for number in passes])
            start = begin - passes[0] * len(rows)
            found[k] = seen[start : start + end - begin].reshape(-1, count)
        return found

    def _permutation(self, k: int, number: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, k, number]).permutation(self.classes[k].rows)
