"""Tensors in nested tuples: what graphs take and give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def tensors_of(tree: Any) -> list[Tensor]:
    """List the tensors of a tensor, or of nested tuples of tensors, from left to right."""
    if isinstance(tree, Tensor):
        return [tree]
    return [tensor for branch in tree for tensor in tensors_of(branch)]


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Apply a function to each tensor of a tree, and return a tree of the same form."""
    if isinstance(tree, Tensor):
        return function(tree)
    branches = [map_tensors(function, branch) for branch in tree]
    return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)


def part_of(tree: Any, start: int, end: int) -> Any:
    """Return rows `start` to `end` of each tensor."""
    return map_tensors(lambda tensor: tensor[start:end], tree)
