"""What an extractor of features is, and sets of structures with their features at hand."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.features.cache import FeatureCache
from crysmetrics.io import Crystals, Failure
from crysmetrics.packages import require

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
    cached: bool = True
    """Whether looking a structure up is cheaper than computing it."""
    batch: int = 2000
    """Structures whose features are kept at once, so that an interrupted run can go on."""

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
    ("crystalnn", "native"): "crysmetrics.features.crystalnn",
    ("magpie", "native"): "crysmetrics.features.magpie",
    ("cgcnn", "native"): "crysmetrics.features.cgcnn",
    ("alignn", "native"): "crysmetrics.features.alignn",
    ("space_group", "native"): "crysmetrics.features.symmetry",
    ("alignn", "alignn-dgl"): "crysmetrics.features.alignn_dgl",
    ("crystalnn", "matminer"): "crysmetrics.features.matminer_backend",
    ("magpie", "matminer"): "crysmetrics.features.matminer_backend",
}
DEFAULT_BACKEND = "native"
BACKENDS = tuple(dict.fromkeys(backend for _, backend in _MODULES))
FEATURES = tuple(dict.fromkeys(name for name, _ in _MODULES))


@dataclass(frozen=True)
class Run:
    """How features are computed: everything that may change their cost.

    Attributes:
        backend: whose code computes them; ours where it has none of its own.
        workers: cores to use; None for all.
        cache: where features are kept between runs; None to compute all.
        device: for networks: `auto`, `cpu`, `cuda`.
        alignn: name of ALIGNN's weights; None for those that are shipped.
        dask: address of a Dask scheduler whose workers compute; None to compute here.
    """

    backend: str = DEFAULT_BACKEND
    workers: int | None = None
    cache: FeatureCache | None = None
    device: str = "auto"
    alignn: str | None = None
    dask: str | None = None

    def torch_device(self) -> str:
        """Where networks compute; imports PyTorch, so ask only when there is work.

        Raises:
            UserError: if there is no such device here.
        """
        require("torch", "torch", "A network")
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"There is no {self.device} here; use --device cpu.")
        if self.device != "cpu" and not self.device.startswith("cuda"):
            raise UserError(f"Devices are auto, cpu and cuda; not {self.device!r}.")
        return self.device


def get_extractor(name: str, run: Run | None = None) -> Extractor:
    """The extractor of this name.

    Raises:
        UserError: if there is no such feature or backend.
    """
    run = run or Run()
    if name not in FEATURES:
        raise UserError(f"There are no features {name!r}; known are {', '.join(FEATURES)}.")
    if run.backend not in BACKENDS:
        raise UserError(f"There is no backend {run.backend!r}; known are {', '.join(BACKENDS)}.")
    module = _MODULES.get((name, run.backend)) or _MODULES[name, DEFAULT_BACKEND]
    extractor: Extractor = import_module(module).extractor(name, run)
    if run.dask is not None:
        from crysmetrics.features.cluster import spread

        return spread(extractor, run)
    return extractor


class Sample:
    """A set of structures under evaluation, with each feature computed at most once.

    Args:
        crystals: the structures and failures.
        role: `gen` or `ref`, as failures and inputs are labelled.
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
        self.seconds: dict[str, float] = {}
        """Time that each feature took, for the breakdown of a report's times."""

    def __len__(self) -> int:
        return len(self.crystals)

    def features(self, name: str) -> Features:
        """Features of this name; computed, or read from the cache, at the first call."""
        if name not in self._features:
            start = time.perf_counter()
            if name in self._preset:
                extractor, found = self._preset[name]
            else:
                extractor = get_extractor(name, self.run)
                found = extract(extractor, self.crystals, self.run.workers, self.run.cache)
            self.extractors[name] = extractor
            self._features[name] = found
            self.seconds[name] = time.perf_counter() - start
        return self._features[name]

    def chosen(self, index: NDArray[np.intp], failures: Iterable[Failure] = ()) -> Sample:
        """Some of the structures, with what is known of their features.

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

    def failed_features(self) -> list[tuple[str, str]]:
        """(id, reason) of every structure whose features failed."""
        ids = self.crystals.ids
        return [
            (ids[i], f"{name} failed: {reason}")
            for name in sorted(self._features)
            for i, reason in sorted(self._features[name].failures.items())
        ]


def extract(
    extractor: Extractor,
    crystals: Crystals,
    workers: int | None = None,
    cache: FeatureCache | None = None,
) -> Features:
    """Features of all structures, those that `cache` knows read from it and the others added.

    Structures of equal content are computed once.
    """
    if cache is None or not extractor.cached:
        values, failures = extractor.compute(crystals, workers)
        return Features(values, failures)
    keys, name = crystals.content_hashes(), f"{extractor.name} {extractor.hash}"
    known = cache.get(name, keys)
    first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
    missing = sorted(first.values())
    for start in range(0, len(missing), extractor.batch):
        batch = missing[start : start + extractor.batch]
        values, failures = extractor.compute(crystals[batch], workers)
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
