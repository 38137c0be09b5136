"""A device without numbers: what a CUDA graph can't hold is found without a GPU.

Tensors on PyTorch's device `meta` have shapes alone, so that asking for a value fails; a watch on
top of it refuses what works on a GPU but not within a graph.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crysgen.graphs import map_tensors

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "linalg", "lift_fresh")
CLOSED = ("linalg_cross", "linalg_vector_norm")


class Watch(TorchDispatchMode):
    """Refuses operations that wait for the device, and tensors of host memory."""

    def __enter__(self):
        self.patches = [
            patch.object(torch, name, side_effect=AssertionError(f"{name} within a graph"))
            for name in ("tensor", "as_tensor", "from_numpy")
        ]
        for each in self.patches:
            each.start()
        return super().__enter__()

    def __exit__(self, *error):
        for each in self.patches:
            each.stop()
        super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::")
        if name.startswith(WAITING) and not name.startswith(CLOSED):
            raise AssertionError(f"{name} within a graph")
        result = function(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if name.startswith("index") and any(x.dtype == torch.bool for x in given[1:]):
            raise AssertionError(f"{name} by a mask within a graph")
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cpu" for x in [*given, *made]):
            raise AssertionError(f"{name} of host memory within a graph")
        return result


def on_fake_gpu(tree: Any) -> Any:
    """Return tensors of the same shapes on the device."""
    return map_tensors(lambda tensor: tensor.to("meta"), tree)


def without_autocast(monkeypatch) -> None:
    """Switch off the precision contexts, which the device does not have."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.float32)
