"""Features and formation energies of ALIGNN, in plain PyTorch.

The Fréchet ALIGNN distance (GemsDiff paper, Section 5.2) compares the 256 numbers that ALIGNN
averages over a crystal's atoms before its last layer, which turns them into a formation energy
per atom. Both come from one pass: the extractor has the energy as its last column, so that the
Fréchet distance and the earth mover's distance of energies share a computation and its cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crysmetrics.device import torch_device
from crysmetrics.errors import UserError
from crysmetrics.features.alignn.graph import (
    FOLD,
    TOLERANCE,
    LineGraphs,
    line_graphs,
)
from crysmetrics.features.alignn.weights import (
    DEFAULT_WEIGHTS,
    FEATURE_WIDTH,
    load_weights,
    network_on,
)
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.parallel import chunks_of, in_threads, torch_threads
from crysmetrics.progress import task

if TYPE_CHECKING:
    from crysmetrics.features.alignn.network import ALIGNN

FEATURE_COLUMNS = slice(0, FEATURE_WIDTH)
"""Columns of the extractor that the Fréchet distance compares."""
ENERGY_COLUMN = FEATURE_WIDTH
"""The column with the formation energy in eV/atom."""
LABELS = (*(f"ALIGNN {i}" for i in range(FEATURE_WIDTH)), "formation_energy_per_atom")

_ATOMS_AT_ONCE = 16_000
"""Whose graphs are held at once; without symmetry some 200 pairs of bonds an atom, 80 MB."""
PAIRS_AT_ONCE = 16_000
"""Bond pairs in one pass of one core: 16 MB an array of 256 float32 a pair, two of them alive."""
PAIRS_AT_ONCE_ON_GPU = 500_000
"""Likewise 0.5 GB, of which some six are alive: there all edges are one block."""


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of ALIGNN's 256 features and formation energy in eV/atom, (B, 257).

    Args:
        name: of the features.
        run: says which weights are used and where PyTorch computes.

    Raises:
        UserError: if there are no such weights.
    """
    weights = run.alignn or DEFAULT_WEIGHTS
    loaded = load_weights(weights)

    def compute(
        crystals: Crystals, workers: int | None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        features, energies, failures = evaluate(
            crystals, weights=weights, device=run.device, workers=workers
        )
        return np.column_stack([features, energies]), failures

    parameters = {"weights_sha256": loaded.sha256, "tolerance": TOLERANCE, "fold": FOLD}
    if loaded.rule != "published":  # which had no name when results were made with it before
        parameters["graph_rule"] = loaded.rule
    made_by = f"crysmetrics 1, ALIGNN weights {loaded.sha256[:8]}"
    return Extractor(name, made_by, LABELS, compute, parameters)


def formation_energies(
    crystals: Crystals,
    *,
    weights: str | Path = DEFAULT_WEIGHTS,
    device: str = "auto",
    workers: int | None = None,
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Predict formation energies (B,) in eV/atom, NaN with a reason where that fails.

    Raises:
        UserError: if there are no such weights, or they predict something else.
    """
    if not load_weights(weights).gives_energy:
        raise UserError(f"The weights {weights} do not predict formation energies.")
    _, energies, failures = evaluate(crystals, weights=weights, device=device, workers=workers)
    return energies, failures


def evaluate(
    crystals: Crystals,
    *,
    weights: str | Path = DEFAULT_WEIGHTS,
    device: str = "auto",
    workers: int | None = None,
    tolerance: float = TOLERANCE,
    fold: float = FOLD,
    pairs_at_once: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[int, str]]:
    """Compute features and formation energies in eV/atom.

    Args:
        crystals: B structures.
        weights: a name or a `.safetensors` file.
        device: where PyTorch computes: `auto` (CUDA if there is a GPU), `cpu` or `cuda`.
        workers: cores to use; None for all. The result does not depend on it.
        tolerance: of neighbour shells, see `line_graphs`.
        fold: of equal bonds and angles, see `line_graphs`.
        pairs_at_once: bounds the memory; one structure may have more. None for PAIRS_AT_ONCE,
            or PAIRS_AT_ONCE_ON_GPU.

    Returns:
        Features (B, 256); formation energies (B,) in eV/atom, NaN if the weights predict
        something else; and the reason for each structure for which both are NaN.

    Raises:
        UserError: if there are no such weights, or no such device.
    """
    loaded = load_weights(weights)
    where = torch_device(device)
    network = loaded.network if where == "cpu" else network_on(loaded, where)
    at_once = pairs_at_once or (PAIRS_AT_ONCE if where == "cpu" else PAIRS_AT_ONCE_ON_GPU)
    features = np.full((len(crystals), FEATURE_WIDTH), np.nan)
    energies = np.full(len(crystals), np.nan)
    failures: dict[int, str] = {}
    # Each core takes batches of its own: that waits less than all cores on each operation.
    passes = workers if where == "cpu" else 1
    with task("ALIGNN features", len(crystals)) as advance, torch_threads(1):
        for part in chunks_of(crystals.num_atoms.tolist(), _ATOMS_AT_ONCE):
            graphs = line_graphs(
                crystals[part],
                rule=loaded.rule,
                tolerance=tolerance,
                fold=fold,
                workers=workers,
            )
            failures.update({part.start + i: why for i, why in graphs.failures.items()})
            good = np.setdiff1d(np.arange(len(graphs)), list(graphs.failures))
            batches = [good[some] for some in chunks_of(graphs.num_pairs[good].tolist(), at_once)]
            jobs = [(network, graphs[batch], where) for batch in batches]
            for batch, found in zip(batches, in_threads(_apply, jobs, passes), strict=True):
                rows = part.start + batch
                features[rows] = found[0]
                if loaded.gives_energy:
                    energies[rows] = found[1]
                advance(len(batch))
            advance(len(graphs.failures))
    for i in np.flatnonzero(~np.isfinite(features).all(axis=1)):
        failures.setdefault(int(i), "its features are not finite numbers")
    features[list(failures)], energies[list(failures)] = np.nan, np.nan
    return features, energies, dict(sorted(failures.items()))


def _apply(
    network: ALIGNN, graphs: LineGraphs, device: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute features (b, 256) and the first output (b,) of some graphs."""
    import torch

    from crysmetrics.features.alignn.network import GraphBatch

    with torch.inference_mode():  # which holds for one thread only
        features = network.features(GraphBatch.of(graphs, device))
        out = network.fc(features)[:, 0]
        return features.double().cpu().numpy(), out.double().cpu().numpy()
