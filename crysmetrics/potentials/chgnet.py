"""CHGNet (Deng et al., Nature Machine Intelligence 5, 1031 (2023)).

It was trained on the Materials Project: what it relaxes or ranks is no honest prediction of
compounds that are in there, and benchmarks mark such rows. Its package carries the weights; they
are read without unpickling.
"""

from __future__ import annotations

import warnings
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.io.parsed import one_line
from crysmetrics.packages import require
from crysmetrics.parallel import flushed_denormals
from crysmetrics.potentials.base import Potential, Prediction, file_sha256
from crysmetrics.torch_files import load_tensors

VERSION = "0.3.0"
"""Of the weights."""
LAST_ELEMENT = 94
"""Plutonium, beyond which CHGNet knows none."""


class CHGNet(Potential):
    """Energies by PBE and PBE+U, mixed as the Materials Project mixes them."""

    name = f"chgnet {VERSION}"
    title = "CHGNet"
    elements = frozenset(range(1, LAST_ELEMENT + 1))
    corrected = True

    @property
    def sha256(self) -> str:
        """See `Potential`."""
        return file_sha256(_weights())

    def evaluate(self, crystals: Crystals) -> Prediction:
        """See `Potential`: all graphs in one call of the network."""
        import torch

        model = _model(self.device)
        graphs = [_graph(crystal, model).to(self.device) for crystal in crystals]
        # Its features fade out through denormals, which take a CPU as long as half of the rest.
        with warnings.catch_warnings(), torch.enable_grad(), flushed_denormals():
            warnings.simplefilter("ignore")
            energies, slopes = _energies_and_slopes(model, graphs)
        forces = [-_array(slope) for slope in slopes[: len(graphs)]]
        stresses = [_array(slope) for slope in slopes[len(graphs) :]]
        return Prediction(
            _array(energies),
            np.concatenate(forces),
            np.stack(stresses) / crystals.volumes[:, None, None],
        )


def _energies_and_slopes(model: Any, graphs: list[Any]) -> tuple[Any, list[Any]]:
    """Compute energies (B,) in eV/atom, and slopes of total energies by positions, then by strains.

    `CHGNet.forward` takes two backward passes that can be differentiated once more, which only
    training needs; one plain pass gives the same numbers in less than half the time.
    """
    import torch
    from chgnet.model.model import BatchedGraph

    batch = BatchedGraph.from_graphs(
        graphs,
        bond_basis_expansion=model.bond_basis_expansion,
        angle_basis_expansion=model.angle_basis_expansion,
        compute_stress=True,
    )
    found = model._compute(batch)
    energies = found["e"].reshape(-1)
    total = (energies * found["atoms_per_graph"]).sum()
    places = [*batch.atom_positions, *batch.strains]
    slopes = torch.autograd.grad(total, places, allow_unused=True, materialize_grads=True)
    return energies + model.composition_model(graphs).reshape(-1), list(slopes)


def _array(tensor: Any) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)


def _graph(crystal: Crystals, model: Any) -> Any:
    from pymatgen.core import Lattice, Structure

    lattice = Lattice(crystal.lattices[0])
    return model.graph_converter(Structure(lattice, crystal.atomic_numbers, crystal.frac_coords))


@cache
def _model(device: str) -> Any:
    path = _weights()
    from chgnet.model import CHGNet as Network

    try:
        # It says on standard output that it is there, where JSON may be wanted.
        with redirect_stdout(StringIO()):
            state = load_tensors(path)
            model = Network.from_dict(state["model"]).to(device).eval()
    except (RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise UserError(f"CHGNet can't be used: {one_line(error)}.") from error
    # Its weights need no gradients; positions and strains do.
    model.requires_grad_(False)
    model.graph_converter.set_isolated_atom_response("ignore")
    return model


def _weights() -> Path:
    from importlib.util import find_spec

    require("chgnet", "relax", "Relaxation")
    found = find_spec("chgnet")
    if found is None or found.origin is None:
        raise UserError("The installed CHGNet is no package: pip install -U chgnet.")
    paths = sorted((Path(found.origin).parent / "pretrained" / VERSION).glob("*.pth.tar"))
    if not paths:
        raise UserError(f"This version of CHGNet has no weights {VERSION}.")
    return paths[0]
