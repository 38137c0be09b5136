"""An extractor of features, and how it is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.features.cache import FeatureCache
from crysmetrics.io import Crystals

if TYPE_CHECKING:
    from crysmetrics.above_hull import StabilitySettings

Compute = Callable[[Crystals, int | None], tuple[NDArray[np.float64], dict[int, str]]]
Part = tuple[NDArray[np.int64], NDArray[np.float64], dict[int, str]]
"""Rows (B,) of a set, their features (B, d), and the reason for each of the B that failed."""
Parts = Callable[[Crystals, int | None], Iterator[Part]]


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
    cached: bool = True
    """Whether looking a structure up is cheaper than computing it."""
    batch: int = 2000
    """Structures whose features are kept at once, so that an interrupted run can go on."""
    parts: Parts | None = None
    """Computes the same as `compute`, and yields what is done, to be kept at once; for features
    that take long."""

    @property
    def hash(self) -> str:
        """Hash name, version and parameters; numbers of different hashes differ."""
        text = json.dumps([self.name, self.version, dict(self.parameters)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Features:
    """Features of a set: `values` (B, d), and reasons for the rows that failed (NaN)."""

    values: NDArray[np.float64]
    failures: Mapping[int, str]

    @cached_property
    def ok(self) -> NDArray[np.bool_]:
        """Mark the rows that could be computed, (B,)."""
        mask = np.ones(len(self.values), dtype=bool)
        mask[list(self.failures)] = False
        return mask


@dataclass(frozen=True)
class Run:
    """How structures are read and features computed: nothing of it changes a number.

    Attributes:
        backend: whose code computes them; ours where it has none of its own.
        workers: cores to use; None for all.
        cache: where features are kept between runs; None to compute all.
        device: for networks: `auto`, `cpu`, `cuda`.
        alignn: name of ALIGNN's weights; None for those that are shipped.
        id_column, cif_column: where ids and structures stand in tables; None for the usual names.
        stability: potentials and known phases of energies above the hull; None for the usual ones.
        dask: address of a Dask scheduler whose workers compute; None to compute here.
    """

    backend: str = "native"
    workers: int | None = None
    cache: FeatureCache | None = None
    device: str = "auto"
    alignn: str | None = None
    stability: StabilitySettings | None = None
    dask: str | None = None
    id_column: str | None = None
    cif_column: str | None = None
