"""What an extractor of features is, and sets of structures with their features at hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals

Compute = Callable[[Crystals, int | None], tuple[NDArray[np.float64], dict[int, str]]]


@dataclass(frozen=True)
class Extractor:
    """A named, versioned map from crystals to vectors.

    Attributes:
        name: of the features, as metrics ask for them: `crystalnn`, `magpie`, ...
        version: changes whenever the numbers do; names the backend.
        labels: of the columns.
        compute: takes Crystals and a number of workers; returns (B, d) float64 with rows of
            NaN where it failed, and the reason for each such row.
        parameters: everything else that decides the numbers.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    compute: Compute
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Short hash of name, version and parameters; numbers of different hashes differ."""
        text = json.dumps([self.name, self.version, dict(self.parameters)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Features:
    """Features of a set: `values` (B, d), and reasons for the rows that failed (NaN)."""

    values: NDArray[np.float64]
    failures: Mapping[int, str]

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """(B,) which rows could be computed."""
        mask = np.ones(len(self.values), dtype=bool)
        mask[list(self.failures)] = False
        return mask


_MODULES: dict[tuple[str, str], str] = {
    ("crystalnn", "matminer"): "crysmetrics.features.matminer_backend",
    ("magpie", "matminer"): "crysmetrics.features.matminer_backend",
}
DEFAULT_BACKEND = "matminer"
BACKENDS = ("matminer",)


def get_extractor(name: str, backend: str = DEFAULT_BACKEND) -> Extractor:
    """The extractor of this name.

    Raises:
        UserError: if there is none, or none of this backend.
    """
    module = _MODULES.get((name, backend))
    if module is None:
        known = sorted({n for n, _ in _MODULES})
        raise UserError(f"There are no features {name!r} by {backend!r}; known are {known}.")
    extractor: Extractor = import_module(module).extractor(name)
    return extractor


class Sample:
    """A set of structures under evaluation, with each feature computed at most once.

    Args:
        crystals: the structures and failures.
        role: `gen` or `ref`, as failures and inputs are labelled.
        path: where they came from, as the user gave it.
        backend: of the extractors.
        workers: cores to use; None for all.
    """

    def __init__(
        self,
        crystals: Crystals,
        role: str,
        path: str | None = None,
        *,
        backend: str = DEFAULT_BACKEND,
        workers: int | None = None,
    ) -> None:
        self.crystals = crystals
        self.role = role
        self.path = path
        self.backend = backend
        self.workers = workers
        self.extractors: dict[str, Extractor] = {}
        self._features: dict[str, Features] = {}

    def __len__(self) -> int:
        return len(self.crystals)

    def features(self, name: str) -> Features:
        """Features of this name; computed at the first call."""
        if name not in self._features:
            extractor = get_extractor(name, self.backend)
            values, failures = extractor.compute(self.crystals, self.workers)
            self.extractors[name] = extractor
            self._features[name] = Features(values, failures)
        return self._features[name]

    def failed_features(self) -> list[tuple[str, str]]:
        """(id, reason) of every structure whose features failed."""
        ids = self.crystals.ids
        return [
            (ids[i], f"{name} failed: {reason}")
            for name in sorted(self._features)
            for i, reason in sorted(self._features[name].failures.items())
        ]
