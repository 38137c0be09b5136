"""Where PyTorch computes."""

from __future__ import annotations

import re

from crysmetrics.errors import UserError
from crysmetrics.packages import require


def refuse_missing_device(name: str) -> None:
    """Refuse the name of a device that is not here, before any work is done.

    PyTorch is not imported for `auto` and `cpu`, which are always there.

    Raises:
        UserError: if there is no such device here.
    """
    if name not in ("auto", "cpu"):
        torch_device(name)


def torch_device(name: str = "auto") -> str:
    """Name the device on which PyTorch computes: `cpu`, `cuda` or `cuda:N`.

    Imports PyTorch unless the name is `cpu`, so ask only when there is work.

    Args:
        name: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: if there is no such device here.
    """
    require("torch", "torch", "A network")
    if name == "cpu":
        return name
    if name != "auto" and not re.fullmatch(r"cuda(:[0-9]{1,4})?", name):
        raise UserError(f"Devices are auto, cpu and cuda; not {name!r}.")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    if int(name.partition(":")[2] or 0) >= count:
        raise UserError(f"There is no {name} here; use --device cpu.")
    return name
