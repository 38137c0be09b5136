"""A function of tensors as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crysgen.graphs.trees import map_tensors, tensors_of

_WARM_UPS = 2


class Captured:
    """A function recorded as a CUDA graph; on other devices it is called each time.

    Recording calls the function a few times, so it has to give the same however often it is called,
    but for the time at which a value of `inputs` changes what it changes.

    Args:
        function: of one tree of tensors (`crysgen.graphs.trees`). Nothing in it may wait for a
            value, make a tensor of host memory, or depend on what is not a tensor of its own.
        inputs: an example, of the shapes and types of all inputs to come.
        pool: memory that graphs share which never run at the same time
            (`torch.cuda.graph_pool_handle`).
    """

    def __init__(self, function: Callable[[Any], Any], inputs: Any, pool: Any = None) -> None:
        self._function = function
        self._inputs = map_tensors(torch.clone, inputs)
        self._buffers = _by_type(tensors_of(self._inputs))
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Any = None
        if any(tensor.is_cuda for tensor in tensors_of(inputs)):
            self._record(pool)

    def _record(self, pool: Any) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._function(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self._outputs = self._function(self._inputs)
        self._graph = graph

    def __call__(self, inputs: Any) -> Any:
        """Return what the function does; of a graph, tensors that the next call writes over."""
        for kind, tensors in _by_type(tensors_of(inputs)).items():
            torch._foreach_copy_(self._buffers[kind], tensors)
        if self._graph is None:
            return self._function(self._inputs)
        self._graph.replay()
        return self._outputs


def _by_type(tensors: list[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.dtype, []).append(tensor)
    return kinds
