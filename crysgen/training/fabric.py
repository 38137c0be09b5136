"""Devices, precision and processes of a training run, by Lightning Fabric."""

from __future__ import annotations

from typing import Any

import torch

from crysmetrics.errors import UserError
from crysmetrics.packages import require


def launch(
    accelerator: str = "auto",
    devices: int | str = 1,
    precision: Any = "32-true",
    loggers: Any = None,
) -> Any:
    """Launch a `lightning.fabric.Fabric`.

    Raises:
        UserError: if it is not installed, or the devices are not there.
    """
    require("lightning_fabric", "train", "Training")
    from lightning_fabric import Fabric

    torch.set_float32_matmul_precision("high")
    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, precision=precision, loggers=loggers
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Training can't run on {devices} x {accelerator}: {reason}") from error
    return fabric


def device_name(device: torch.device) -> str:
    """Name a device for a model's card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
