"""Sets of structures with their features at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.cluster import spread
from crysmetrics.features.extractor import Extractor, Features, Run
from crysmetrics.features.registry import get_extractor
from crysmetrics.io import Crystals, Failure

T = TypeVar("T")


class Sample:
    """A set of structures under evaluation, with each feature computed at most once.

    Args:
        crystals: the structures and failures.
        role: `gen`, `ref` or `train`, as failures and inputs are labelled.
        path: where they came from, as the user gave it.
        run: how features are computed.
    """

    def __init__(
        self, crystals: Crystals, role: str, path: str | None = None, run: Run | None = None
    ) -> None:
        self.crystals = crystals
        self.role = role
        self.path = path
        self.run = run or Run()
        self.extractors: dict[str, Extractor] = {}
        self._features: dict[str, Features] = {}
        self._preset: dict[str, tuple[Extractor, Features]] = {}
        self.seconds_reading = 0.0
        """Time that whoever made this sample took to read its structures."""
        self._derived: dict[Hashable, Any] = {}
        self.seconds: dict[str, float] = {}
        """Time that each feature took, for the breakdown of a report's times."""

    def __len__(self) -> int:
        return len(self.crystals)

    def features(self, name: str) -> Features:
        """Return the features of this name; computed, or read from the cache, at the first call."""
        if name not in self._features:
            start = time.perf_counter()
            if name in self._preset:
                extractor, found = self._preset[name]
            else:
                extractor = get_extractor(name, self.run)
                found = extract(extractor, self.crystals, self.run)
            self.extractors[name] = extractor
            self._features[name] = found
            self.seconds[name] = time.perf_counter() - start
        return self._features[name]

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Compute something about this set that several measures need, at the first call only."""
        if key not in self._derived:
            self._derived[key] = compute()
        found: T = self._derived[key]
        return found

    def chosen(self, index: NDArray[np.intp], failures: Iterable[Failure] = ()) -> Sample:
        """Choose some of the structures, with what is known of their features.

        Args:
            index: of those that were read.
            failures: that belong to the choice.
        """
        part = Sample(self.crystals[index].with_failures(failures), self.role, self.path, self.run)
        computed = {n: (self.extractors[n], found) for n, found in self._features.items()}
        for extractor, found in ({**self._preset, **computed}).values():
            reasons = {
                k: found.failures[i] for k, i in enumerate(index.tolist()) if i in found.failures
            }
            part.preset(extractor, Features(found.values[index], reasons))
        part.seconds_reading = self.seconds_reading
        return part

    def preset(self, extractor: Extractor, features: Features) -> None:
        """Use these features, made earlier by this extractor, instead of computing them."""
        self._preset[extractor.name] = (extractor, features)

    def has_features(self, name: str) -> bool:
        """Tell whether features of this name are there already."""
        return name in self._features or name in self._preset

    def at_hand(self, name: str) -> Features | None:
        """Return features that are there already, and do not count them as used; None else."""
        if name in self._features:
            return self._features[name]
        return self._preset[name][1] if name in self._preset else None

    def failed_features(self) -> list[tuple[str, str]]:
        """List (id, reason) of every structure whose features failed."""
        ids = self.crystals.ids
        return [
            (ids[i], f"{name} failed: {reason}")
            for name in sorted(self._features)
            for i, reason in sorted(self._features[name].failures.items())
        ]


def extract(extractor: Extractor, crystals: Crystals, run: Run | None = None) -> Features:
    """Compute features of all structures, or read them from the cache where they are known.

    Structures of equal content are computed once.

    Args:
        extractor: of the features.
        crystals: B structures.
        run: whose workers, cache and Dask scheduler are used; all cores and no cache if None.
    """
    run = run or Run()
    cache = run.cache
    if run.dask is not None:
        extractor = spread(extractor, run)
    if cache is None or not extractor.cached:
        values, failures = extractor.compute(crystals, run.workers)
        return Features(values, failures)
    keys, name = crystals.content_hashes(), f"{extractor.name} {extractor.hash}"
    known = cache.get(name, keys, len(extractor.labels))
    first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
    missing = sorted(first.values())
    for batch, values, failures in _computed(extractor, crystals, missing, run.workers):
        cache.put(name, [keys[i] for i in batch], values, failures)
        for row, i in enumerate(batch):
            known[keys[i]] = (None if row in failures else values[row], failures.get(row))
    values = np.full((len(crystals), len(extractor.labels)), np.nan)
    reasons = {}
    for i, key in enumerate(keys):
        row_values, reason = known[key]
        if row_values is None:
            reasons[i] = reason or "unknown"
        else:
            values[i] = row_values
    return Features(values, reasons)


def _computed(
    extractor: Extractor, crystals: Crystals, missing: list[int], workers: int | None
) -> Iterator[tuple[list[int], NDArray[np.float64], dict[int, str]]]:
    """Compute features of some rows of a set, and yield what is to be kept at once."""
    if extractor.parts is not None:
        for rows, values, failures in extractor.parts(crystals[missing], workers):
            yield [missing[row] for row in rows], values, failures
        return
    for start in range(0, len(missing), extractor.batch):
        batch = missing[start : start + extractor.batch]
        yield batch, *extractor.compute(crystals[batch], workers)
