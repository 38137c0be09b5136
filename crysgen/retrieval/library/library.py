"""A library of known crystals, by anonymous formula."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np

from crysgen.retrieval.library.anonymous import Counts
from crysgen.retrieval.library.entries import Entries, load_entries
from crysgen.retrieval.library.groups import AnonymousFormulaGroup
from crysgen.retrieval.library.user import user_library
from crysgen.retrieval.scoring.similarity import Similarity, load_similarity
from crysgen.retrieval.scoring.volume import (
    VolumeNetworks,
    load_volume_networks,
    radial_histograms,
)
from crysmetrics.errors import UserError

SHIPPED = "library.npz"
"""Name of the shipped library."""
DATA_FILES = (
    "calibration.json",
    "library.npz",
    "volume.npz",
    "plausibility.safetensors",
    "probability.json",
    "similarity.npz",
)
"""Names of all shipped files, in the order of their hash."""


class Library:
    """Known crystals in groups of one anonymous formula, with the networks that compare them.

    Args:
        entries: the crystals.
        similarity: networks of distances between compounds; the shipped ones by default.
        everything: whether the entries are all that is known, so that known structures of a formula
            are given before predictions.

    Attributes:
        entries: the crystals.
        similarity: networks of distances between compounds, and of volumes by composition.
        volumes: networks of volumes of known structures.
    """

    def __init__(
        self, entries: Entries, similarity: Similarity | None = None, everything: bool = False
    ) -> None:
        self.entries, self.everything = entries, everything
        self.similarity = similarity or load_similarity()
        self.volumes: VolumeNetworks = load_volume_networks()
        self._groups: dict[Counts, AnonymousFormulaGroup] = {}
        self._residuals: dict[int, float] = {}

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        extra: Iterable[str | Path] | None = None,
        everything: bool = False,
    ) -> Library:
        """Read a library.

        Args:
            path: a file that `crysgen.retrieval.library.build` wrote; the shipped one by default.
            extra: more library files; by default the user's own, if there is one and `path` is
                not given.
            everything: also the structures that benchmarks and training must not see.

        Raises:
            InputError: if a file is no library.
        """
        entries = load_entries(shipped_library() if path is None else path, everything)
        if extra is None:
            own = user_library()
            extra = [own] if path is None and own.is_file() else []
        for more in extra:
            entries = entries.joined(load_entries(more))
        return cls(entries, everything=everything)

    def __len__(self) -> int:
        return len(self.entries)

    def group(self, counts: Counts) -> AnonymousFormulaGroup:
        """Collect the entries with these anonymous counts; empty where there are none."""
        if counts not in self._groups:
            self._groups[counts] = AnonymousFormulaGroup(self.entries, counts, self.similarity)
        return self._groups[counts]

    def log_volume_residual(self, entry: int) -> float:
        """Compute the log-ratio of an entry's volume to the one that `volumes` predicts."""
        if entry not in self._residuals:
            lattice = self.entries.lattices[entry].astype(np.float64)
            counts = self.entries.counts(entry)
            histograms = radial_histograms(lattice, self.entries.frac(entry), counts)
            elements = self.entries.species(entry)[None]
            predicted = float(self.volumes.log_volumes(elements, counts, histograms[None])[0])
            self._residuals[entry] = float(np.log(abs(np.linalg.det(lattice)))) - predicted
        return self._residuals[entry]


def library_files() -> list[Path]:
    """List the files that decide proposals: the shipped ones, and the user's library.

    Their order is part of the hash by which a run knows its library again.
    """
    folder = Path(str(files("crysgen.retrieval.data")))
    own = user_library()
    return [*(folder / name for name in DATA_FILES), *([own] if own.is_file() else [])]


def shipped_library() -> Path:
    """Find the library file that comes with the package.

    Raises:
        UserError: if it is missing.
    """
    path = Path(str(files("crysgen.retrieval.data").joinpath(SHIPPED)))
    if not path.is_file():
        raise UserError(f"The library {SHIPPED} is missing from this installation.")
    return path
