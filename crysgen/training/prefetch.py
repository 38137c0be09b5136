"""Batches with noise and neighbours, made ahead of training by a thread on a stream of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch

from crysgen.graphs import part_of, tensors_of
from crysgen.models.base import Prepares
from crysgen.training.classes import Block, ClassOrder
from crysgen.training.data import DeviceCrystals

_AHEAD = 2
"""Blocks that wait to be trained on, beside the one that is made."""
_TOGETHER = 8
"""Batches of one class that are prepared at once: enough to make a GPU the limit, not Python."""
_PATIENCE = 0.5
"""Seconds after which a thread looks whether the other is still there."""


class PreparedBatches:
    """Batches of an order, prepared ahead, as a context.

    Random numbers of a block follow from seed and number of the block.

    Args:
        model: whose `prepare` is called, in another thread where `ahead`.
        stage: of the training.
        crystals: to train on.
        order: in which they are seen.
        seed: of the noise.
        first: number of the first batch.
        ahead: whether a thread prepares; by default on a GPU.
    """

    def __init__(
        self,
        model: Prepares,
        stage: str,
        crystals: DeviceCrystals,
        order: ClassOrder,
        seed: int,
        first: int = 0,
        ahead: bool | None = None,
    ) -> None:
        self.model, self.stage, self.crystals, self.order = model, stage, crystals, order
        self.seed, self.first = seed, first
        self.device = crystals.all.lattices.device
        self.on_gpu = self.device.type == "cuda"
        self.ahead = self.on_gpu if ahead is None else ahead
        self._queue: queue.Queue[tuple[Block, dict[int, list[Any]], Any]] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def example(self, k: int) -> Any:
        """Prepare a batch of class k that is not trained on, of the shapes of all."""
        of_class = self.order.classes[k]
        rows = of_class.rows[torch.arange(of_class.count).numpy() % len(of_class.rows)]
        batch = self.crystals.batch(rows, of_class.size)
        generator = torch.Generator(self.device).manual_seed(k)
        return self.model.prepare(batch, generator, self.stage)

    def __enter__(self) -> PreparedBatches:
        if self.ahead:
            self._thread = threading.Thread(target=self._produce, name="prefetch", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Iterate over classes and prepared batches, without end.

        Raises:
            RuntimeError: if the thread failed.
        """
        skipped = self.first % self.order.block
        for block, parts in self._blocks():
            left = {k: iter(batches) for k, batches in parts.items()}
            for place, k in enumerate(block.order.tolist()):
                prepared = next(left[k])
                if place >= skipped:
                    yield k, prepared
            skipped = 0

    def _blocks(self) -> Iterator[tuple[Block, dict[int, list[Any]]]]:
        if not self.ahead:
            for block in self.order.blocks(self.first):
                yield block, self.prepared(block)
            return
        while True:
            try:
                block, parts, done = self._queue.get(timeout=_PATIENCE)
            except queue.Empty:
                if self._error is not None:
                    raise RuntimeError(f"preparing batches failed: {self._error}") from self._error
                continue
            if done is not None:
                now = torch.cuda.current_stream(self.device)
                now.wait_event(done)
                for batches in parts.values():
                    for tensor in tensors_of(batches):
                        tensor.record_stream(now)
            yield block, parts

    def _produce(self) -> None:
        try:
            if self.on_gpu:
                # Small operations, each of which would wait behind the large ones of training.
                with torch.cuda.stream(torch.cuda.Stream(self.device, priority=-1)):
                    self._fill()
            else:
                self._fill()
        except BaseException as error:
            self._error = error

    def _fill(self) -> None:
        for block in self.order.blocks(self.first):
            parts = self.prepared(block)
            done = torch.cuda.current_stream(self.device).record_event() if self.on_gpu else None
            while not self._stop.is_set():
                try:
                    self._queue.put((block, parts, done), timeout=_PATIENCE)
                    break
                except queue.Full:
                    continue
            if self._stop.is_set():
                return

    @torch.no_grad()
    def prepared(self, block: Block) -> dict[int, list[Any]]:
        """Prepare all batches of a block, by class."""
        found: dict[int, list[Any]] = {}
        for k, rows in block.rows.items():
            generator = torch.Generator(self.device)
            generator.manual_seed(hash((self.seed, block.number, k)) % 2**62)
            found[k] = []
            for start in range(0, len(rows), _TOGETHER):
                if self._stop.is_set():
                    return found
                some = rows[start : start + _TOGETHER]
                batch = self.crystals.batch(some.reshape(-1), self.order.classes[k].size)
                whole = self.model.prepare(batch, generator, self.stage, len(some))
                count = some.shape[1]
                found[k] += [part_of(whole, i * count, (i + 1) * count) for i in range(len(some))]
        return found
