"""Measure how alike compounds are, and how large, by small learned networks.

Each species of a compound becomes a point in space: a function of its element and of what else the
compound is made of (so that iron in an oxide and iron in an alloy differ). The squared
distances of corresponding species add up to the distance of two compounds. The networks are trained
(`training.similarity`) so that near compounds have the same structure: neighbourhood components
analysis (Goldberger et al., NIPS 2004) on the library itself. The peers are CSPML (Kusaba et al.,
Comput. Mater. Sci. 211, 111496, 2022), which learns a distance of whole compositions, and the
substitution probabilities of Hautier et al. (Inorg. Chem. 50, 656, 2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysgen.retrieval.library.anonymous import Counts
from crysmetrics.errors import InputError

ENTRY_FEATURES = 11
"""Number of features of an entry beside its composition; see `entry_features`."""
SHIPPED = "similarity.npz"
"""Name of the shipped networks."""

Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Weight and bias of each layer."""


@dataclass(frozen=True)
class CompoundMetric:
    """One trained network for distances.

    Attributes:
        table: (119, d) features of each element, by atomic number.
        skip: (D, d) linear part of the map from species to points.
        points: layers of its other part.
        bias: layers from `entry_features` to an addition to the logit of an entry.
        temperature: divides squared distances.
    """

    table: NDArray[np.float32]
    skip: NDArray[np.float32]
    points: Layers
    bias: Layers
    temperature: float

    def embed(self, elements: NDArray[np.int64], counts: Counts) -> NDArray[np.float32]:
        """Map species to points (B, k, D) whose squared distances are negative logits."""
        own, inputs = species_inputs(self.table, elements, counts)
        points: NDArray[np.float32] = own @ self.skip.T + apply_layers(self.points, inputs)
        return points / np.float32(np.sqrt(self.temperature))


@dataclass(frozen=True)
class Similarity:
    """Trained networks.

    Attributes:
        metrics: the distance of compounds is the mean over these.
        volume_table: (119, d) features of each element, for volumes.
        volume: layers from a species' inputs to the log-volume of its atoms, in ln Å³.
    """

    metrics: tuple[CompoundMetric, ...]
    volume_table: NDArray[np.float32]
    volume: Layers

    def embed(self, elements: NDArray[np.int64], counts: Counts) -> NDArray[np.float32]:
        """Map the species of B compounds with the same counts to points (B, k, D).

        Args:
            elements: (B, k) atomic numbers.
            counts: atoms of the k species.
        """
        points = [metric.embed(elements, counts) for metric in self.metrics]
        # Squared distances of points side by side add up.
        return np.concatenate(points, axis=-1) / np.float32(np.sqrt(len(points)))

    def atomic_volumes(self, elements: NDArray[np.int64], counts: Counts) -> NDArray[np.float64]:
        """Predict the volume (B, k) of an atom of each species, in Å³."""
        inputs = species_inputs(self.volume_table, elements, counts)[1]
        return np.exp(apply_layers(self.volume, inputs)[..., 0].astype(np.float64))

    def cell_volumes(self, elements: NDArray[np.int64], counts: Counts) -> NDArray[np.float64]:
        """Predict the volume (B,) of all atoms together, in Å³."""
        return self.atomic_volumes(elements, counts) @ np.array(counts, dtype=np.float64)

    def entry_bias(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute additions (E,) to the logits of entries, from (E, ENTRY_FEATURES)."""
        found = [apply_layers(metric.bias, features)[:, 0] for metric in self.metrics]
        return np.mean(found, axis=0, dtype=np.float32)


def species_inputs(
    table: NDArray[np.float32], elements: NDArray[np.int64], counts: Counts
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Look up features (B, k, d) of species, and inputs that add the rest of the compound."""
    own = table[elements]
    amounts = np.array(counts)
    shares = (amounts / amounts.sum()).astype(np.float32)[None, :, None]
    mean = (own * shares).sum(axis=1, keepdims=True)
    spread = ((own - mean) ** 2 * shares).sum(axis=1, keepdims=True)
    one = own[..., :1]
    reduced = (np.log(amounts / np.gcd.reduce(amounts)) / 2).astype(np.float32)[None, :, None]
    parts = [own, np.broadcast_to(mean, own.shape), np.broadcast_to(spread, own.shape)]
    parts += [np.broadcast_to(shares, one.shape), np.full_like(one, len(counts) / 3)]
    parts.append(np.broadcast_to(reduced, one.shape))
    return own, np.concatenate(parts, axis=-1)


def entry_features(
    e_above_hull: NDArray[Any],
    hull_estimate: NDArray[Any],
    theoretical: NDArray[np.bool_],
    space_groups: NDArray[Any],
) -> NDArray[np.float32]:
    """Describe how likely an entry's structure is one that others have, (E, ENTRY_FEATURES).

    Args:
        e_above_hull: (E,) eV/atom, NaN where unknown.
        hull_estimate: (E,) lower bound of it, NaN where unknown.
        theoretical: (E,) whether its database is mostly of hypothetical compounds.
        space_groups: (E,) numbers.
    """
    hull = np.asarray(e_above_hull, dtype=np.float32)
    unknown = np.isnan(hull)
    systems = np.digitize(np.asarray(space_groups, dtype=np.int64), [3, 16, 75, 143, 168, 195])
    columns = [np.clip(np.nan_to_num(hull), 0, 0.5) * 5, unknown, np.asarray(theoretical)]
    columns += [systems == system for system in range(7)]
    bound = np.nan_to_num(np.asarray(hull_estimate, dtype=np.float32))
    columns += [np.where(unknown, np.clip(bound, 0, 0.5) * 5, 0.0)]
    return np.stack(columns, axis=1).astype(np.float32)


def apply_layers(layers: Layers, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply layers with SiLU between them to inputs (..., d)."""
    for i, (weight, bias) in enumerate(layers):
        x = x @ weight.T + bias
        if i + 1 < len(layers):
            x = x / (1 + np.exp(-np.clip(x, -60, 60)))
    return x


def stored_networks(
    path: str | Path | None, shipped: str
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Read the arrays of a file of networks, and the names before the `/` in theirs.

    Args:
        path: of the file; None for the shipped one.
        shipped: name of that within this package.

    Raises:
        InputError: if it can't be read, or holds no network.
    """
    source = files("crysgen.retrieval.data").joinpath(shipped) if path is None else Path(path)
    try:
        with source.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name].astype(np.float32) for name in stored.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{source} is no file of networks that can be read.") from error
    names = sorted({key.split("/")[0] for key in arrays if "/" in key})
    if not names:
        raise InputError(f"{source} holds no networks.")
    return arrays, names


@lru_cache(maxsize=4)
def load_similarity(path: str | Path | None = None) -> Similarity:
    """Load the shipped networks, or those in a file.

    Raises:
        InputError: if the file holds no networks for the library.
    """
    arrays, names = stored_networks(path, SHIPPED)
    try:
        metrics = tuple(_metric(arrays, f"{name}/") for name in names)
        return Similarity(metrics, arrays["volume_table"], layers_of(arrays, "volume"))
    except KeyError as error:
        raise InputError(f"{path} holds no networks for the library: {error}.") from error


def _metric(arrays: dict[str, NDArray[np.float32]], prefix: str) -> CompoundMetric:
    return CompoundMetric(
        arrays[f"{prefix}table"],
        arrays[f"{prefix}skip"],
        layers_of(arrays, f"{prefix}points"),
        layers_of(arrays, f"{prefix}bias"),
        float(arrays[f"{prefix}temperature"]),
    )


def layers_of(arrays: dict[str, NDArray[np.float32]], name: str) -> Layers:
    """Collect the weights and biases that are stored under a name."""
    count = sum(key.startswith(f"{name}.weight.") for key in arrays)
    return [(arrays[f"{name}.weight.{i}"], arrays[f"{name}.bias.{i}"]) for i in range(count)]
