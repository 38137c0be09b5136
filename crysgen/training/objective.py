"""Pieces of a training run: the loss as a module, and what is counted between validations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from crysgen.training.batch import Batch

if TYPE_CHECKING:
    from crysgen.models.base import Model


class Objective(nn.Module):
    """The loss as a module, so that Fabric can wrap its forward pass."""

    def __init__(self, model: Model, stage: str) -> None:
        super().__init__()
        self.model, self.stage = model, stage

    def forward(self, batch: Callable[[], Batch], generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the losses of a batch, which comes hidden in a function.

        In mixed precision Fabric rounds every tensor among the arguments to 16 bits; positions
        must not be.
        """
        return self.model.loss(batch(), generator, self.stage)


@dataclass
class Window:
    """Counts of the steps since the last validation.

    Attributes:
        seconds: of the run at that validation.
        loss: sum over steps.
        steps: number of them.
        crystals: seen.
    """

    seconds: float
    loss: Tensor | float = 0.0
    steps: int = 0
    crystals: int = 0
