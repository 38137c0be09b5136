"""Steps of training as CUDA graphs: the GPU is the limit, not Python.

Forward and backward pass are one graph for each class of sizes; clipping, optimiser and average
another. Batches come with their noise and neighbours from a thread. Nothing waits for the device
but a bound on how far the host is ahead.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from crysgen.graphs import Captured
from crysgen.models.base import Prepares
from crysgen.training.classes import ClassOrder
from crysgen.training.prefetch import PreparedBatches
from crysgen.training.steps import EagerSteps
from crysmetrics.errors import UserError

if TYPE_CHECKING:
    from crysgen.training.trainer import Trainer

_AHEAD = 20
"""Steps by which the host may be ahead of the GPU."""

log = logging.getLogger(__name__)


def steps_of(run: Trainer, graphs: bool | None) -> EagerSteps | GraphSteps:
    """Return the steps of a stage: by graphs where they can be had.

    Args:
        run: at any step of the stage.
        graphs: False for none; True also where there is no GPU, and whatever fails is raised.
    """
    refusal = _refusal(run, anywhere=graphs is True)
    if graphs is True and refusal is not None:
        raise UserError(f"This training can't be CUDA graphs: {refusal}.")
    if graphs is False or refusal is not None:
        return EagerSteps(run)
    try:
        return GraphSteps(run)
    except RuntimeError as error:
        if graphs is True:
            raise
        reason = str(error).splitlines()[0]
        log.warning("Training goes on without CUDA graphs, which don't hold it (%s).", reason)
        return EagerSteps(run)


def _refusal(run: Trainer, anywhere: bool) -> str | None:
    """Say why a run can't be graphs."""
    if not isinstance(run.model, Prepares):
        return f"{run.model.kind} does not prepare batches"
    if not getattr(run.model, "has_static_shapes", True):
        return "how much is prepared depends on the crystals"
    if run.fabric.device.type != "cuda" and not anywhere:
        return "there is no GPU"
    if run.fabric.world_size > 1:
        return "there are several processes"
    if run.compiled:
        return "it is compiled"
    if getattr(run.fabric.strategy.precision, "scaler", None) is not None:
        return "gradients are scaled"
    return None


class GraphSteps:
    """Steps of a stage of a run; see the module. Without a GPU the same, operation by operation.

    Args:
        run: at any step of the stage, of a model that `Prepares`.
    """

    def __init__(self, run: Trainer) -> None:
        self.run = run
        self.model = cast(Any, run.model)
        self.device = run.fabric.device
        self.order = ClassOrder(run.train.num_atoms, run.of_stage.batch_atoms, run.settings.seed)
        first = run.step - run.start["step"]
        self._classes, self._seen = self.order.classes, self.order.crystals_before(first)
        self._parameters = [p for p in run.model.parameters() if p.requires_grad]
        averaged = dict(run.average.module.named_parameters())
        trained = dict(run.model.named_parameters()).items()
        pairs = [(p, averaged[name]) for name, p in trained if p.requires_grad]
        self._now, self._average = [p.detach() for p, _ in pairs], [a.detach() for _, a in pairs]
        self._loss = torch.zeros((), device=self.device)
        self._events: deque[torch.cuda.Event] = deque()
        batches = PreparedBatches(
            self.model, run.stage, run.train, self.order, run.settings.seed, first
        )
        self._capture(batches)
        self._open = ExitStack()
        self._batches = iter(self._open.enter_context(batches))

    def take(self) -> tuple[Tensor, int]:
        """Take the next step, and return its loss and the number of crystals in it."""
        run = self.run
        k, prepared = next(self._batches)
        run.model.train()
        run.memory.set_rate(run.learning_rate)
        self.losses[k](prepared)
        count = run.step - run.start["step"] + 1
        keep = min(run.of_stage.ema, count / (count + 9))  # `crysmetrics.weight_average`
        self._update((torch.full((), 1 - keep, device=self.device),))
        run.average.n_averaged += 1
        size = self._classes[k].count
        self._seen += size
        run.epoch = run.start["epoch"] + self._seen // len(run.train)
        run.place = 0
        self._wait_for_the_last_but_few()
        return self._loss.double(), size

    def close(self) -> None:
        """End the thread, and free the graphs."""
        self._open.close()
        self.losses.clear()
        for parameter in self._parameters:
            parameter.grad = None

    def _wait_for_the_last_but_few(self) -> None:
        if self.device.type != "cuda":
            return
        self._events.append(torch.cuda.current_stream().record_event())
        if len(self._events) > _AHEAD:
            self._events.popleft().synchronize()

    def _capture(self, batches: PreparedBatches) -> None:
        """Record all graphs; weights, average and moments are afterwards what they were."""
        self.run.model.train()
        examples = {k: batches.example(k) for k in range(len(self._classes))}
        for parameter in self._parameters:
            parameter.grad = None
        self._forward_and_backward(examples[0])  # which weights have gradients at all
        for parameter in self._parameters:
            if parameter.grad is not None:
                # Where graphs find it again.
                parameter.grad = torch.zeros_like(parameter)
        state = self.run.memory.allocate()
        before = [tensor.clone() for tensor in state]
        pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None
        largest_first = sorted(examples, key=lambda k: -self._classes[k].size)
        try:
            self.losses = {
                k: Captured(self._forward_and_backward, examples[k], pool) for k in largest_first
            }
            self.run.memory.set_rate(0.0)
            self._update = Captured(self._step, (torch.zeros((), device=self.device),))
        finally:
            with torch.no_grad():
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)

    def _forward_and_backward(self, prepared: Any) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if gradients:
            torch._foreach_zero_(gradients)
        with self._precision():
            loss = self.model.prepared_loss(prepared, self.run.stage)["loss"]
        loss.backward()
        self._loss.copy_(loss.detach())

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """The precision of the run, without a cache of rounded weights, which outlives a graph."""
        device = self.device.type
        with self.run.fabric.autocast():
            on, kind = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            with torch.autocast(device, kind, enabled=on, cache_enabled=False):
                yield

    @torch.no_grad()
    def _step(self, inputs: tuple[Tensor]) -> None:
        torch.nn.utils.clip_grad_norm_(self._parameters, self.run.of_stage.clip)
        self.run.memory.apply()
        change = torch._foreach_sub(self._now, self._average)
        torch._foreach_mul_(change, inputs[0])
        torch._foreach_add_(self._average, change)
