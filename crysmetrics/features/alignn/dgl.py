"""The original ALIGNN, through alignn's own graphs and DGL, with the same weights as ours.

For whoever wants the original's numbers (`--backend alignn-dgl`, extra `[dgl]`). It compares the
distances of neighbour shells exactly, so that rounding decides which of several equally distant
neighbours count; beyond that it agrees with `crysmetrics.features.alignn`.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.features.alignn.extractor import LABELS
from crysmetrics.features.alignn.weights import (
    DEFAULT_WEIGHTS,
    FEATURE_WIDTH,
    Weights,
    load_weights,
)
from crysmetrics.features.extractor import Extractor, Run
from crysmetrics.io import Crystals
from crysmetrics.io.elements import SYMBOLS
from crysmetrics.packages import how_to_install
from crysmetrics.parallel import cpu_count, torch_threads
from crysmetrics.progress import task

CUTOFF = 8.0
"""Å; the original searches this far, and farther where there are too few neighbours."""
MAX_NEIGHBOURS = 12


def extractor(name: str, run: Run) -> Extractor:
    """Make the extractor of the original's features and energy in eV/atom, (B, 257).

    Args:
        name: of the features.
        run: says which weights are used; the device can only be `cpu` (or `auto`): DGL's wheels
            have no GPU code for this PyTorch.

    Raises:
        UserError: if alignn or DGL is not installed, or there are no such weights, or they were
            trained on graphs that the original does not make.
    """
    if run.device not in ("auto", "cpu"):
        raise UserError("The backend alignn-dgl computes on the CPU alone.")
    alignn = _import_alignn()
    weights = run.alignn or DEFAULT_WEIGHTS
    loaded = load_weights(weights)
    if loaded.rule != "published":
        raise UserError(
            f"The weights {weights} were trained on graphs that the original does not make; give "
            "the backend alignn-dgl other ones, such as --alignn mp_e_form_alignn."
        )
    sha256 = loaded.sha256

    def compute(
        crystals: Crystals, workers: int | None
    ) -> tuple[NDArray[np.float64], dict[int, str]]:
        features, energies, failures = evaluate(crystals, weights=weights, workers=workers)
        return np.column_stack([features, energies]), failures

    made_by = f"alignn {alignn['version']}, dgl {alignn['dgl'].__version__}"
    return Extractor(name, made_by, LABELS, compute, {"weights_sha256": sha256})


def evaluate(
    crystals: Crystals,
    *,
    weights: str | Path = DEFAULT_WEIGHTS,
    workers: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[int, str]]:
    """Compute features (B, 256) and formation energies (B,) in eV/atom, and reasons where NaN.

    Args:
        crystals: B structures, one after the other.
        weights: a name or a `.safetensors` file.
        workers: threads of PyTorch; None for all cores.

    Raises:
        UserError: if alignn or DGL is not installed, or there are no such weights, or they were
            trained on graphs that the original does not make.
    """
    import torch

    loaded = load_weights(weights)
    network = _original(loaded)
    features = np.full((len(crystals), FEATURE_WIDTH), np.nan)
    energies = np.full(len(crystals), np.nan)
    failures: dict[int, str] = {}
    with (
        task("ALIGNN features (alignn, DGL)", len(crystals)) as advance,
        torch_threads(cpu_count(workers)),
        torch.inference_mode(),
    ):
        for i, crystal in enumerate(crystals):
            try:
                graphs = original_graphs(crystal)
                pooled, out = network(graphs)
            except Exception as error:  # the original fails with whatever NumPy or DGL raises
                failures[i] = f"alignn fails on it ({type(error).__name__}: {error})"
            else:
                features[i] = pooled.double().numpy()
                if loaded.gives_energy:
                    energies[i] = float(out)
                if not np.isfinite(features[i]).all():
                    failures[i] = "its features are not finite numbers"
            advance(1)
    features[list(failures)], energies[list(failures)] = np.nan, np.nan
    return features, energies, failures


def original_graphs(crystal: Crystals) -> tuple[Any, Any]:
    """Build the original's graph and line graph (DGL) of one structure."""
    alignn = _import_alignn()
    atoms = alignn["Atoms"](
        lattice_mat=crystal.lattices[0],
        coords=crystal.frac_coords,
        elements=[SYMBOLS[z] for z in crystal.atomic_numbers],
        cartesian=False,
    )
    graphs: tuple[Any, Any] = alignn["Graph"].atom_dgl_multigraph(
        atoms,
        neighbor_strategy="k-nearest",
        cutoff=CUTOFF,
        max_neighbors=MAX_NEIGHBOURS,
        atom_features="cgcnn",
        compute_line_graph=True,
        use_canonize=True,
    )
    return graphs


class _Original:
    """The original network, which also gives what it pools."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.pooled: Any = None
        network.readout.register_forward_hook(self._keep)

    def _keep(self, module: Any, given: Any, pooled: Any) -> None:
        self.pooled = pooled

    def __call__(self, graphs: tuple[Any, Any]) -> tuple[Any, Any]:
        """Compute the pooled features (256,) and the first output of one structure."""
        import torch

        graph, line_graph = graphs
        # The third of the triple, the lattice, is not read.
        out = self.network((graph, line_graph, torch.zeros(3)))
        return self.pooled[0], out.reshape(-1)[0]


@lru_cache(maxsize=2)
def _original(weights: Weights) -> _Original:
    alignn = _import_alignn()
    ours = weights.network
    config = alignn["ALIGNNConfig"](
        name="alignn",
        alignn_layers=len(ours.alignn_layers),
        gcn_layers=len(ours.gcn_layers),
        output_features=ours.fc.out_features,
    )
    network = alignn["ALIGNN"](config)
    network.load_state_dict(ours.state_dict())
    return _Original(network.eval())


@lru_cache(maxsize=1)
def _import_alignn() -> dict[str, Any]:
    """Import what is needed of alignn, jarvis and DGL.

    Raises:
        UserError: if one of them is not installed, or DGL does not fit this PyTorch.
    """
    # DGL otherwise writes a configuration into the home folder, and talks about it.
    os.environ.setdefault("DGLBACKEND", "pytorch")
    silence = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silence),
            contextlib.redirect_stderr(silence),
        ):
            warnings.simplefilter("ignore")
            from importlib.metadata import version

            import dgl
            from alignn.graphs import Graph
            from alignn.models.alignn import ALIGNN, ALIGNNConfig
            from jarvis.core.atoms import Atoms
    except (ImportError, OSError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            "The backend alignn-dgl needs alignn and dgl 1.1.3 (CPython 3.11): "
            f"{how_to_install('dgl')} ({reason})."
        ) from error
    return {
        "version": version("alignn"),
        "dgl": dgl,
        "Graph": Graph,
        "ALIGNN": ALIGNN,
        "ALIGNNConfig": ALIGNNConfig,
        "Atoms": Atoms,
    }
