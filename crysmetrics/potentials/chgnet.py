"""CHGNet (Deng et al., Nature Machine Intelligence 5, 1031 (2023)).

It was trained on the Materials Project: what it relaxes or ranks is no honest prediction of
compounds that are in there, and benchmarks mark such rows. Its package carries the weights; they
are read without unpickling.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from crysmetrics.errors import UserError
from crysmetrics.io import Crystals
from crysmetrics.io.parsed import one_line
from crysmetrics.packages import require
from crysmetrics.potentials.base import Potential, file_sha256

VERSION = "0.3.0"
"""Of the weights."""
LAST_ELEMENT = 94
"""Plutonium, beyond which CHGNet knows none."""


class CHGNet(Potential):
    """Energies by PBE and PBE+U, mixed as the Materials Project mixes them."""

    name = f"chgnet {VERSION}"
    title = "CHGNet"
    elements = frozenset(range(1, LAST_ELEMENT + 1))

    @property
    def sha256(self) -> str:
        """See `Potential`."""
        return file_sha256(_weights())

    def calculator(self, crystal: Crystals) -> Any:
        """See `Potential`; one for all crystals."""
        return _calculator(self.device)


@cache
def _calculator(device: str) -> Any:
    import torch

    path = _weights()
    from chgnet.model import CHGNet as Network
    from chgnet.model.dynamics import CHGNetCalculator

    try:
        # It says on standard output that it is there, where JSON may be wanted.
        with redirect_stdout(StringIO()):
            state = torch.load(path, map_location="cpu", weights_only=True)
            model = Network.from_dict(state["model"]).to(device).eval()
            return CHGNetCalculator(model, use_device=device, on_isolated_atoms="ignore")
    except (RuntimeError, KeyError, TypeError, UnpicklingError) as error:
        raise UserError(f"CHGNet can't be used: {one_line(error)}.") from error


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
