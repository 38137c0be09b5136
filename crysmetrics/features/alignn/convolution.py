"""The edge-gated convolution of ALIGNN, block by block of edges.

Nearly all time goes into arrays of one row for each pair of bonds. On a CPU they do not fit into
the caches, and a chain of whole-array operations waits for memory; so edges go through the whole
chain in blocks that fit. The derivative is written out for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

EPSILON = 1e-6
"""Keeps the sum of gates from zero; the original's value."""
_BLOCK = 1024
"""Rows of a block: 1 MB of 256 float32 each."""


@dataclass(frozen=True, eq=False)
class Edges:
    """Edges of a graph (nodes: atoms) or of its line graph (nodes: bonds), sorted by target.

    Attributes:
        source: (E,) int64.
        target: (E,) int64, ascending.
        counts: (E, 1), such edges at one node of the target's class.
        sizes: (E,), members of each edge's class, for statistics over edges.
    """

    source: Tensor
    target: Tensor
    counts: Tensor
    sizes: Tensor

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """Yield (rows, source, target, counts) of each block; on a GPU there is but one."""
        rows = len(self.source)
        step = _BLOCK if self.source.device.type == "cpu" else max(rows, 1)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            yield part, self.source[part], self.target[part], self.counts[part]


@torch.no_grad()
def gated_sums(
    y: Tensor,
    to_gate: Tensor,
    from_gate: Tensor,
    message: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    edges: Edges,
    keep_edges: bool,
) -> tuple[Tensor, Tensor]:
    """Sum the gated inputs of each node, and update the edges; without gradients.

    Args:
        y: (E, C) edges.
        to_gate: (V, C) part of the gate that comes from an edge's source.
        from_gate: (V, C) likewise from its target.
        message: (V, C) what a node sends.
        weight: (C, C) of the gate's linear map of the edge itself.
        bias: (C,) of it.
        scale: (C,) of the normalisation of gates before they update edges.
        shift: (C,) likewise.
        edges: which nodes the edges join.
        keep_edges: whether the edges' update is needed.

    Returns:
        Sums (V, C) of messages weighted by gates over the sum of gates; edges (E, C).
    """
    taken, total = torch.zeros_like(to_gate), torch.zeros_like(to_gate)
    new = torch.empty_like(y) if keep_edges else y
    for rows, source, target, counts in edges.blocks():
        before = y[rows]
        gate = linear(before, weight, bias)
        gate += to_gate.index_select(0, source)
        gate += from_gate.index_select(0, target)
        sigma = torch.sigmoid(gate).mul_(counts)
        total.index_add_(0, target, sigma)
        taken.index_add_(0, target, sigma.mul_(message.index_select(0, source)))
        if keep_edges:
            torch.add(before, silu(gate.mul_(scale).add_(shift), inplace=True), out=new[rows])
    return taken.div_(total.add_(EPSILON)), new


def whole_gated_sums(
    y: Tensor,
    to_gate: Tensor,
    from_gate: Tensor,
    message: Tensor,
    weight: Tensor,
    bias: Tensor,
    bn_weight: Tensor,
    bn_bias: Tensor,
    edges: Edges,
    share: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute `GatedSums` in whole-array operations, which a compiler fuses by itself."""
    gate = linear(y, weight, bias)
    gate = gate + to_gate.index_select(0, edges.source) + from_gate.index_select(0, edges.target)
    sigma = torch.sigmoid(gate)
    sent = (sigma * message.index_select(0, edges.source)).to(y.dtype) * edges.counts
    zeros = y.new_zeros(to_gate.shape)
    taken = zeros.index_add(0, edges.target, sent)
    total = zeros.index_add(0, edges.target, sigma.to(y.dtype) * edges.counts)
    normal, mean, variance = weighted_norm(gate.to(y.dtype), share, bn_weight, bn_bias, eps)
    return taken / (total + EPSILON), y + silu(normal), mean, variance


def weighted_norm(
    x: Tensor, share: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise rows by their weighted mean and variance; return these two as well."""
    mean = (share[:, None] * x).sum(0)
    centred = x - mean
    variance = (share[:, None] * centred.square()).sum(0)
    return centred * ((variance + eps).rsqrt() * weight) + bias, mean.detach(), variance.detach()


class GatedSums(torch.autograd.Function):
    """`gated_sums` for training: gates are normalised by their own mean and variance.

    Takes also `share` (E,), each edge's part in these statistics, and `low`, the type of the
    products; returns also the mean and the variance (C,).
    """

    @staticmethod
    def forward(  # noqa: D102, what it takes and returns is said above
        ctx: Any,
        y: Tensor,
        to_gate: Tensor,
        from_gate: Tensor,
        message: Tensor,
        weight: Tensor,
        bias: Tensor,
        bn_weight: Tensor,
        bn_bias: Tensor,
        edges: Edges,
        share: Tensor,
        eps: float,
        keep_edges: bool,
        low: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(y.device.type, enabled=False):
            low_weight, low_bias = weight.to(low), bias.to(low)
            gates = torch.empty_like(y, dtype=low)
            taken = y.new_zeros(to_gate.shape)
            total = y.new_zeros(to_gate.shape)
            mean, square = y.new_zeros(y.shape[1]), y.new_zeros(y.shape[1])
            for rows, source, target, counts in edges.blocks():
                gate = linear(y[rows].to(low), low_weight, low_bias)
                gate += to_gate.index_select(0, source)
                gate += from_gate.index_select(0, target)
                gates[rows] = gate
                sigma = torch.sigmoid(gate)
                sent = (sigma * message.index_select(0, source)).to(y.dtype)
                taken.index_add_(0, target, sent.mul_(counts))
                total.index_add_(0, target, sigma.to(y.dtype) * counts)
                if keep_edges:
                    wide = gate.to(y.dtype)
                    mean += share[rows] @ wide
                    square += share[rows] @ wide.square_()
            total += EPSILON
            taken /= total
            variance = (square - mean.square()).clamp_(min=0)
            inverse = (variance + eps).rsqrt()
            new = y
            if keep_edges:
                scale = bn_weight * inverse
                shift = bn_bias - mean * scale
                new = torch.empty_like(y)
                for rows, *_ in edges.blocks():
                    normal = torch.addcmul(shift, gates[rows], scale)
                    torch.add(y[rows], silu(normal, inplace=True), out=new[rows])
        ctx.save_for_backward(
            y, gates, to_gate, from_gate, message, low_weight, taken, total, share, mean, inverse,
            bn_weight, bn_bias,
        )  # fmt: skip
        ctx.edges, ctx.keep_edges = edges, keep_edges
        ctx.mark_non_differentiable(mean, variance)
        return taken, new, mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        (
            y, gates, to_gate, from_gate, message, low_weight, taken, total, share, mean, inverse,
            bn_weight, bn_bias,
        ) = ctx.saved_tensors  # fmt: skip
        edges, keep, wide, low = ctx.edges, ctx.keep_edges, y.dtype, gates.dtype
        grad_ratio, grad_new = grads[0], grads[1]
        grad_taken = grad_ratio / total
        grad_total = -grad_taken * taken
        scale = bn_weight * inverse
        shift = bn_bias - mean * scale
        grad_bn_bias, along = torch.zeros_like(mean), torch.zeros_like(mean)
        if keep:
            for rows, *_ in edges.blocks():
                gate = gates[rows].to(wide)
                normal = torch.addcmul(shift, gate, scale)
                grad = torch.ops.aten.silu_backward(grad_new[rows], normal)
                grad_bn_bias += grad.sum(0)
                along += grad.mul_(gate - mean).sum(0)
        grad_y = torch.empty_like(y)
        grad_weight = torch.zeros_like(low_weight, dtype=wide)
        grad_bias = torch.zeros_like(mean)
        nodes = {name: taken.new_zeros(taken.shape) for name in ("to", "from", "message")}
        # Mean and variance feel each edge by its share.
        slope = along * inverse.square()
        for rows, source, target, counts in edges.blocks():
            gate = gates[rows].to(wide)
            sigma = torch.sigmoid(gate)
            arrived = grad_taken.index_select(0, target).mul_(counts)
            grad_sigma = torch.addcmul(
                grad_total.index_select(0, target).mul_(counts),
                arrived,
                message.index_select(0, source),
            )
            nodes["message"].index_add_(0, source, arrived.mul_(sigma))
            grad_gate = torch.ops.aten.sigmoid_backward(grad_sigma, sigma)
            if keep:
                normal = torch.addcmul(shift, gate, scale)
                grad = torch.ops.aten.silu_backward(grad_new[rows], normal)
                pull = torch.addcmul(grad_bn_bias, gate - mean, slope)
                grad.addcmul_(pull, share[rows, None], value=-1)
                grad_gate.addcmul_(grad, scale)
            nodes["to"].index_add_(0, source, grad_gate)
            nodes["from"].index_add_(0, target, grad_gate)
            grad_bias += grad_gate.sum(0)
            low_grad = grad_gate.to(low)
            grad_weight += low_grad.T @ y[rows].to(low)
            torch.add(grad_new[rows], low_grad @ low_weight, out=grad_y[rows])
        return (
            grad_y,
            nodes["to"].to(to_gate.dtype),
            nodes["from"].to(from_gate.dtype),
            nodes["message"].to(message.dtype),
            grad_weight,
            grad_bias,
            along * inverse,
            grad_bn_bias,
            None, None, None, None, None,
        )  # fmt: skip
