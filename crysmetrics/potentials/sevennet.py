"""SevenNet (Park et al., J. Chem. Theory Comput. 20, 4857 (2024)), its models 7net-0 and 7net-l3i5.

Both were trained on relaxations of the Materials Project (MPtrj), energies as computed, without
corrections: like CHGNet, they know the compounds that are in there. The package carries the
weights. Its own loader unpickles; here the files are read with `weights_only=True`, with NumPy's
arrays as the only additions to what PyTorch allows, and the network is built by the package's code.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.io.parsed import one_line
from crysmetrics.packages import require
from crysmetrics.periodic_neighbours import periodic_neighbours
from crysmetrics.potentials.base import Potential, Prediction, file_sha256
from crysmetrics.torch_files import load_tensors

_UNKNOWN = frozenset({84, 85, 86, 87, 88})
"""Po, At, Rn, Fr, Ra, which MPtrj lacks."""
_FULL = ((0, 3, 5), (3, 1, 4), (5, 4, 2))
"""Where SevenNet's six stresses (xx, yy, zz, xy, yz, zx) go."""


class SevenNet(Potential):
    """Energies as the Materials Project computes them, by PBE and PBE+U without corrections."""

    title = "SevenNet"
    elements = frozenset(range(1, 95)) - _UNKNOWN
    folder: str
    """Of the weights within the package."""

    @property
    def sha256(self) -> str:
        """See `Potential`."""
        return file_sha256(_weights(self.folder))

    def evaluate(self, crystals: Crystals) -> Prediction:
        """See `Potential`: all graphs in one call of the network."""
        import torch
        from sevenn import _keys as key
        from sevenn.atom_graph_data import AtomGraphData

        model = _model(self.folder, self.device)
        found = periodic_neighbours(crystals, float(model.cutoff), workers=1)
        if found.failures:
            raise ValueError(next(iter(found.failures.values())))
        counts, volumes = crystals.num_atoms, crystals.volumes

        def tensor(values: Any, kind: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(values, dtype=kind, device=self.device)

        edges = np.stack([found.source, found.target])
        data = AtomGraphData(
            x=tensor(crystals.atomic_numbers, torch.int64),
            edge_index=tensor(edges, torch.int64),
            pos=tensor(crystals.frac_coords, torch.float32),  # not looked at beside edges
        )
        data[key.ATOMIC_NUMBERS] = data.x
        data[key.EDGE_VEC] = tensor(found.vectors, torch.float32)
        data[key.CELL_VOLUME] = tensor(volumes, torch.float32)
        data[key.NUM_ATOMS] = tensor(counts, torch.int64)
        data[key.BATCH] = tensor(np.repeat(np.arange(len(crystals)), counts), torch.int64)
        with torch.enable_grad():  # forces are gradients, whatever the caller does
            output = model(data)

        def array(name: str) -> Any:
            return output[name].detach().cpu().numpy().astype(np.float64)

        return Prediction(
            array(key.PRED_TOTAL_ENERGY).reshape(-1) / counts,
            array(key.PRED_FORCE),
            -array(key.PRED_STRESS)[:, _FULL],
        )


class SevenNet0(SevenNet):
    """The first model: maximal degree 2."""

    name, folder = "7net-0 11Jul2024", "SevenNet_0__11Jul2024"


class SevenNetL3i5(SevenNet):
    """A larger model, of maximal degree 3 and five layers: more accurate and some times slower."""

    name, folder = "7net-l3i5", "SevenNet_l3i5"


@cache
def _model(folder: str, device: str) -> Any:
    path = _weights(folder)
    try:
        with warnings.catch_warnings():
            # It recommends packages for NVIDIA's GPUs, and NumPy a new name of what it needs.
            warnings.simplefilter("ignore")
            model = _checkpoint(path).build_model().to(device).eval()
    except (RuntimeError, KeyError, TypeError, ValueError, UnpicklingError) as error:
        raise UserError(f"SevenNet can't be used: {one_line(error)}.") from error
    model.requires_grad_(False)
    model.set_is_batch_data(True)
    return model


def _checkpoint(path: Path) -> Any:
    """Read a checkpoint without unpickling, into SevenNet's own class."""
    from sevenn.checkpoint import SevenNetCheckpoint, _config_cp_routine

    # Three names that make arrays of numbers, and nothing else.
    allowed: list[Any] = [
        (np.zeros(0).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Float32DType,
        np.dtypes.Float64DType,
    ]
    content = load_tensors(path, allowed)

    class Checkpoint(SevenNetCheckpoint):
        def _load(self) -> None:
            self._model_state_dict = content["model_state_dict"]
            self._config = _config_cp_routine(content["config"])
            self._loaded = True

    return Checkpoint(path)


def _weights(folder: str) -> Path:
    from importlib.util import find_spec

    require("sevenn", "sevennet", "This potential")
    found = find_spec("sevenn")
    if found is None or found.origin is None:
        raise UserError("The installed SevenNet is no package: pip install -U sevenn.")
    paths = sorted((Path(found.origin).parent / "pretrained_potentials" / folder).glob("*.pth"))
    if not paths:
        raise UserError(f"This version of SevenNet has no weights {folder}.")
    return paths[0]
