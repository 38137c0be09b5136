"""Steps of training, operation by operation: any model, device and number of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crysgen.training.batch import Batch

if TYPE_CHECKING:
    from crysgen.training.trainer import Trainer


class EagerSteps:
    """Steps of a stage of a run.

    Args:
        run: whose counters say which step is next, and are moved.
    """

    def __init__(self, run: Trainer) -> None:
        self.run = run

    def take(self) -> tuple[Tensor, int]:
        """Take the next step, and return its loss and the number of crystals in it."""
        batch, size = self._next_batch()
        return self._update(batch), size

    def close(self) -> None:
        """End the stage."""

    def _next_batch(self) -> tuple[Batch, int]:
        """Return this process's share of the next batch, and the size of the whole."""
        run = self.run
        batches = run.order.epoch(run.epoch)
        rows = batches[run.place]
        run.place += 1
        if run.place == len(batches):
            run.place, run.epoch = 0, run.epoch + 1
        share = rows[run.fabric.global_rank :: run.fabric.world_size]
        return run.train.batch(share if len(share) else rows), len(rows)

    def _update(self, batch: Batch) -> Tensor:
        run = self.run
        run.objective.train()
        for group in run.optimizer.param_groups:
            group["lr"] = run.learning_rate
        generator = torch.Generator(run.fabric.device).manual_seed(run.seed_of_step)
        losses = run.objective(lambda: batch, generator)
        run.fabric.backward(losses["loss"])
        run.fabric.clip_gradients(run.objective, run.optimizer, max_norm=run.of_stage.clip)
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.average.update_parameters(run.model)
        loss: Tensor = losses["loss"].detach()
        return loss
