"""Sampling with the step of the reverse process as a CUDA graph."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from crysgen.graphs.captured import Captured
from crysgen.graphs.trees import tensors_of
from crysgen.models.base import OnStep, Stepwise
from crysgen.networks.neighbours import without_waiting

if TYPE_CHECKING:
    from crysgen.models.targets import Target
    from crysgen.training.batch import Batch

log = logging.getLogger(__name__)


class StepGraphs:
    """Samples of a model by replaying one step, recorded once for each shape of a batch.

    Neighbours are searched without waiting; the few crystals for which that may not have been
    enough are drawn again, with the same random numbers, operation by operation.

    Args:
        model: that is `Stepwise`; without a GPU nothing is recorded.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._steps: dict[Any, Captured] = {}
        self._works = isinstance(model, Stepwise)
        self._pool: Any = None

    def sample(
        self, targets: Sequence[Target], steps: int | None = None, on_step: OnStep | None = None
    ) -> Batch:
        """Sample crystals as `Model.sample` does."""
        if not self._works:
            return self._eager(targets, steps, on_step)
        state, way = self.model.begin(targets, steps)
        step = self._captured(state, way[0])
        if step is None:
            return self._eager(targets, steps, on_step)
        open_ = torch.zeros(len(targets), dtype=torch.bool, device=self.model.device)
        for done, inputs in enumerate(way):
            state, found = step((state, inputs))
            open_ |= found
            if on_step is not None:
                on_step(done + 1, len(way))
        made: Batch = self.model.finish(state)
        # Cells that have run away did so from any neighbours; whoever asked draws them anew.
        is_whole = made.lattices.isfinite().flatten(1).all(1)
        rows = (open_ & is_whole).nonzero()[:, 0]
        if len(rows):
            some = [targets[row] for row in rows.tolist()]
            made = _with_rows(made, rows, self._eager(some, steps, None))
        return made

    def _eager(self, targets: Sequence[Target], steps: int | None, on_step: OnStep | None) -> Batch:
        made: Batch = self.model.sample(targets, steps, on_step)
        return made

    def _captured(self, state: Any, inputs: Any) -> Captured | None:
        """Return the recorded step for such a batch; None if it can't be recorded."""
        tensors = tensors_of((state, inputs))
        shapes = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
        key = (str(self.model.config), shapes)
        if key in self._steps:
            return self._steps[key]
        if self._pool is None and self.model.device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
        try:
            self._steps[key] = Captured(self._step, (state, inputs), self._pool)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            log.warning("Sampling goes on without CUDA graphs, which don't hold it (%s).", reason)
            self._works = False
            return None
        return self._steps[key]

    def _step(self, inputs: tuple[Any, Any]) -> tuple[Any, Tensor]:
        """Take a step; say with the state for which crystals (B,) it may be wrong."""
        with without_waiting() as flags:
            state = self.model.step(*inputs)
        if not flags:
            first = tensors_of(state)[0]
            return state, torch.zeros(len(first), dtype=torch.bool, device=first.device)
        return state, torch.stack(flags).any(0)


def _with_rows(made: Batch, rows: Tensor, others: Batch) -> Batch:
    """Put crystals into rows of a batch, whose padding is at least theirs."""
    more = made.frac_coords.shape[1] - others.frac_coords.shape[1]
    return replace(
        made,
        atomic_numbers=made.atomic_numbers.index_copy(
            0, rows, pad(others.atomic_numbers, (0, more))
        ),
        frac_coords=made.frac_coords.index_copy(0, rows, pad(others.frac_coords, (0, 0, 0, more))),
        lattices=made.lattices.index_copy(0, rows, others.lattices),
    )
