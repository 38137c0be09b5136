"""Energies by CDVAE's own property networks, one for each of its data sets.

Published energy EMDs and success rates of CDVAE's protocol are made of these numbers. As in its
code, a crystal is taken as it is (no Niggli reduction), with bonds by CrystalNN; the mean over its
atoms is scaled to the property's mean and standard deviation on the training split.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.device import torch_device
from crysmetrics.features.bonds import crystalnn_bonds
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.packages import require
from crysmetrics.parallel import chunks_of, in_threads, torch_threads
from crysmetrics.progress import task

if TYPE_CHECKING:
    from crysmetrics.features.cdvae_property.network import DimeNetPlusPlus

PREFIX = "cdvae_"
"""Of the names of these features; the data set follows."""
DATA_SETS = ("mp20", "perov5", "carbon24")

_FOLDER = Path(__file__).parents[2] / "weights" / "cdvae_property"
_LARGEST_ATOMIC_NUMBER = 94
_ATOMS_PER_BATCH = 256
_ATOMS_PER_GPU_BATCH = 16_384


@dataclass(frozen=True)
class Predictor:
    """A network and how its output becomes a property.

    Attributes:
        network: on a device.
        name: of the property, as CDVAE's data files name it.
        mean, std: of the property on the training split, in eV/atom.
    """

    network: DimeNetPlusPlus
    name: str
    mean: float
    std: float


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of a data set's property in eV/atom, (B, 1).

    Args:
        name: `cdvae_mp20`, `cdvae_perov5` or `cdvae_carbon24`.
        run: says where PyTorch computes.

    Raises:
        MissingPackageError: if PyTorch is not installed.
    """
    dataset = name.removeprefix(PREFIX)
    require("torch", "torch", "CDVAE's property network")
    card = _card(dataset)

    def compute(
        crystals: Crystals, workers: int | None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        values, failures = predict(crystals, dataset, device=run.device, workers=workers)
        return values[:, None], failures

    made_by = f"crysmetrics 1, CDVAE weights {card['sha256'][:8]}"
    parameters = {"weights_sha256": card["sha256"], "graph": card["graph"]}
    return Extractor(name, made_by, (card["property"],), compute, parameters)


def predict(
    crystals: Crystals, dataset: str, *, device: str = "auto", workers: int | None = None
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Predict the property (B,) of a data set in eV/atom, NaN with a reason where that fails.

    Args:
        crystals: B structures.
        dataset: one of `DATA_SETS`.
        device: where PyTorch computes: `auto` (CUDA if there is a GPU), `cpu` or `cuda`.
        workers: cores to use; None for all. The result does not depend on it.

    Raises:
        UserError: if there is no such device.
    """
    where = torch_device(device)
    predictor = _predictor(dataset, where)
    values = np.full(len(crystals), np.nan)
    failures = _unknown_elements(crystals)
    usable = np.setdiff1d(np.arange(len(crystals)), list(failures))
    on_cpu = where == "cpu"
    parts = chunks_of(
        crystals.num_atoms[usable].tolist(), _ATOMS_PER_BATCH if on_cpu else _ATOMS_PER_GPU_BATCH
    )
    # On CPU cores batches run side by side, each with one thread of PyTorch, as with CGCNN.
    side_by_side, within = (workers, 1) if on_cpu else (1, workers)
    jobs = [(predictor, crystals[usable[part]], where, within) for part in parts]
    with task("CDVAE energies", len(crystals)) as advance, torch_threads(1):
        advance(len(failures))
        for part, found in zip(parts, in_threads(_apply, jobs, side_by_side), strict=True):
            index = usable[part]
            values[index], reasons = found
            failures.update({int(index[i]): reason for i, reason in reasons.items()})
            advance(len(index))
    for i in np.flatnonzero(~np.isfinite(values)):
        failures.setdefault(int(i), "its predicted property is not a finite number")
    values[list(failures)] = np.nan
    return values, dict(sorted(failures.items()))


def _apply(
    predictor: Predictor, crystals: Crystals, device: str, workers: int | None
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Predict the property of one batch; rows of crystals without a graph are NaN."""
    import torch

    from crysmetrics.features.cdvae_property.graph import bond_graph

    bonds = crystalnn_bonds(crystals, workers)
    with torch.inference_mode():  # which holds for one thread only
        out = predictor.network(bond_graph(crystals, bonds, device))[:, 0].double().cpu().numpy()
    values = out * predictor.std + predictor.mean
    values[list(bonds.failures)] = np.nan
    return values, bonds.failures


def _unknown_elements(crystals: Crystals) -> dict[int, str]:
    """Find structures with elements that the networks have no embedding of."""
    unknown = np.flatnonzero(crystals.atomic_numbers > _LARGEST_ATOMIC_NUMBER)
    return {
        int(crystals.structure_index[site]): (
            f"CDVAE's network does not know {SYMBOLS[crystals.atomic_numbers[site]]}."
        )
        for site in unknown
    }


@cache
def _card(dataset: str) -> dict[str, Any]:
    """Read what is known of a data set's network."""
    card: dict[str, Any] = json.loads((_FOLDER / f"{dataset}.json").read_text())
    return card


@cache
def _predictor(dataset: str, device: str) -> Predictor:
    """Load a data set's network; kept for the next time."""
    from safetensors.torch import load_file

    from crysmetrics.features.cdvae_property.network import DimeNetPlusPlus

    card = _card(dataset)
    state = load_file(_FOLDER / f"{dataset}.safetensors")
    network = DimeNetPlusPlus.from_state(card["network"], state).to(device)
    return Predictor(network, card["property"], card["mean"], card["std"])
