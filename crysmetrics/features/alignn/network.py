"""The atomistic line graph neural network in plain PyTorch, on packed and folded graphs.

Choudhary and DeCost, npj Comput. Mater. 7, 185 (2021). Modules have the names and shapes of
`alignn.models.alignn.ALIGNN`, so that its checkpoints load unchanged; nothing else is needed of
alignn or DGL. Graphs may be folded (see `graph`): sums over neighbours and the statistics
of batch normalisation then count each class as often as it has members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from crysmetrics.features.alignn.convolution import (
    Edges,
    GatedSums,
    gated_sums,
    weighted_norm,
    whole_gated_sums,
)

if TYPE_CHECKING:
    from crysmetrics.features.alignn.graph import LineGraphs

FEATURE_WIDTH = 256
ELEMENT_WIDTH = 92
LONGEST = 8.0
"""Å; the last centre of the distance basis. Longer bonds, where a sparse crystal has them, fade."""


@dataclass(frozen=True, eq=False)
class GraphBatch:
    """What the network takes: LineGraphs as tensors on one device.

    Attributes:
        elements: (A,) int64, atomic numbers.
        sizes: (A,), members of each class of atoms.
        structure: (A,) int64, which of the B structures they belong to.
        structures: B.
        lengths: (E,) of bonds in Å.
        cosines: (T,) of angles between bonds.
        bonds: edges between atoms.
        pairs: edges between bonds.
    """

    elements: Tensor
    sizes: Tensor
    structure: Tensor
    structures: int
    lengths: Tensor
    cosines: Tensor
    bonds: Edges
    pairs: Edges

    @classmethod
    def of(cls, graphs: LineGraphs, device: str | torch.device = "cpu") -> GraphBatch:
        """Make the tensors of these graphs."""

        def put(array: Any) -> Tensor:
            return torch.from_numpy(array).to(device, non_blocking=True)

        sizes = put(graphs.atom_sizes)
        atom_counts = put(graphs.atom_counts)
        bonds = _edges(
            put(graphs.bond_source), put(graphs.bond_target), put(graphs.bond_counts), sizes
        )
        pairs = _edges(
            put(graphs.pair_source), put(graphs.pair_target), put(graphs.pair_counts), bonds.sizes
        )
        return cls(
            put(graphs.atomic_numbers),
            sizes,
            torch.repeat_interleave(
                torch.arange(len(graphs), device=sizes.device),
                atom_counts,
                output_size=len(sizes),
            ),
            len(graphs),
            put(graphs.bond_lengths),
            put(graphs.pair_cosines),
            bonds,
            pairs,
        )


def _edges(source: Tensor, target: Tensor, counts: Tensor, node_sizes: Tensor) -> Edges:
    return Edges(source, target, counts[:, None], counts * node_sizes[target])


class _BatchNorm(torch.autograd.Function):
    """Normalisation by weighted mean and variance; also returns these two."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, share: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.to(weight.dtype)
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 is too coarse for these
            mean = share @ wide
            centred = wide - mean
            variance = share @ centred.square()
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(centred.to(x.dtype), share, weight, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(bias, centred, weight * inverse).to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        centred, share, weight, inverse = ctx.saved_tensors
        grad = grads[0].to(weight.dtype)
        grad_bias = grad.sum(0)
        along = (grad * centred).sum(0)
        # The mean and the variance feel each row by its share.
        pull = torch.addcmul(grad_bias, centred, along * inverse.square())
        grad_x = torch.addcmul(grad, pull, share[:, None], value=-1).mul_(weight * inverse)
        return grad_x, None, along * inverse, grad_bias, None


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose statistics count each row as often as it has members."""

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Normalise the rows of x (R, C), with `sizes` (R,) in training."""
        if not self.training:
            return super().forward(x)
        assert sizes is not None
        share, total = self.shares(sizes)
        if torch.compiler.is_compiling():
            y, mean, variance = weighted_norm(
                x.to(self.weight.dtype), share, self.weight, self.bias, self.eps
            )
        else:
            y, mean, variance = _BatchNorm.apply(x, share, self.weight, self.bias, self.eps)
        self.track(mean, variance, total)
        normalised: Tensor = y
        return normalised

    def shares(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Compute each row's part (R,) in the statistics, and the number of members of all."""
        sizes = sizes.to(self.weight.dtype)
        total = sizes.sum()
        return sizes / total, total

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        """Move the running statistics toward those of a batch."""
        unbiased = variance * (total / (total - 1).clamp(min=1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            assert running is not None
            running.lerp_(new, self.momentum or 0.1)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked += 1

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Compute scale and shift (C,) of inference."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


class EdgeGatedGraphConv(nn.Module):
    """Update of nodes and edges: gates on edges weigh what nodes take in from their neighbours."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.src_gate = nn.Linear(width, width)
        self.dst_gate = nn.Linear(width, width)
        self.edge_gate = nn.Linear(width, width)
        self.bn_edges = BatchNorm(width)
        self.src_update = nn.Linear(width, width)
        self.dst_update = nn.Linear(width, width)
        self.bn_nodes = BatchNorm(width)

    def forward(
        self, x: Tensor, y: Tensor, edges: Edges, sizes: Tensor, keep_edges: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Update nodes (V, C) and edges (E, C); `sizes` (V,) are those of the nodes' classes.

        The edges' own update can be left out where no later layer reads it.
        """
        # One product for all four layers that nodes go through.
        layers = (self.src_gate, self.dst_update, self.dst_gate, self.src_update)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        to_gate, message, from_gate, own = linear(x, weight, bias).chunk(4, dim=1)
        parts = (y, to_gate, from_gate, message, self.edge_gate.weight, self.edge_gate.bias)
        norm = self.bn_edges
        if self.training:
            share, total = norm.shares(edges.sizes)
            if torch.compiler.is_compiling():
                taken, new, mean, variance = whole_gated_sums(
                    *parts, norm.weight, norm.bias, edges, share, norm.eps
                )
            else:
                taken, new, mean, variance = GatedSums.apply(
                    *parts, norm.weight, norm.bias, edges, share, norm.eps, keep_edges, own.dtype
                )
            if keep_edges:
                norm.track(mean, variance, total)
        else:
            taken, new = gated_sums(*parts, *norm.scale_and_shift(), edges, keep_edges)
        return x + silu(self.bn_nodes(own + taken, sizes)), new


class ALIGNNConv(nn.Module):
    """Update of atoms and bonds on the graph, then of bonds and angles on its line graph."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.node_update = EdgeGatedGraphConv(width)
        self.edge_update = EdgeGatedGraphConv(width)

    def forward(
        self, x: Tensor, y: Tensor, z: Tensor, graph: GraphBatch, keep_angles: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update atoms (A, C), bonds (E, C) and pairs (T, C)."""
        x, y = self.node_update(x, y, graph.bonds, graph.sizes)
        y, z = self.edge_update(y, z, graph.pairs, graph.bonds.sizes, keep_angles)
        return x, y, z


class MLPLayer(nn.Module):
    """Linear layer, batch normalisation, SiLU."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(width_in, width_out), BatchNorm(width_out), nn.SiLU())

    def forward(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Map (R, width_in) to (R, width_out)."""
        first, normalise, activate = self.layer
        y: Tensor = activate(normalise(first(x), sizes))
        return y


class RBFExpansion(nn.Module):
    """A number as Gaussians at even distances."""

    centers: Tensor

    def __init__(self, low: float, high: float, bins: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(low, high, bins))
        # As in the original, which takes 1/spacing, not 1/spacing^2.
        self.gamma = (bins - 1) / (high - low)

    def forward(self, values: Tensor) -> Tensor:
        """Expand (R,) to (R, bins)."""
        return (values[:, None] - self.centers).square_().mul_(-self.gamma).exp_()


class Embedding(nn.Sequential):
    """A distance or cosine expanded, then two layers; named by position as in the original."""

    def __init__(self, low: float, high: float, bins: int, middle: int, width: int) -> None:
        super().__init__(
            RBFExpansion(low, high, bins), MLPLayer(bins, middle), MLPLayer(middle, width)
        )

    def forward(self, values: Tensor, sizes: Tensor) -> Tensor:  # type: ignore[override]
        """Embed (R,) as (R, width)."""
        expand, first, second = self
        y: Tensor = second(first(expand(values), sizes), sizes)
        return y


class ALIGNN(nn.Module):
    """Formation energies, and the features they are read from, of crystal graphs.

    Args:
        alignn_layers: updates on graph and line graph.
        gcn_layers: updates on the graph alone, after them.
        distance_bins: Gaussians between 0 and 8 Å.
        angle_bins: Gaussians between cosines -1 and 1.
        middle: width between the two embedding layers.
        width: of everything after.
        outputs: numbers per crystal.
    """

    element_table: Tensor

    def __init__(
        self,
        alignn_layers: int = 4,
        gcn_layers: int = 4,
        distance_bins: int = 80,
        angle_bins: int = 40,
        middle: int = 64,
        width: int = FEATURE_WIDTH,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.atom_embedding = MLPLayer(ELEMENT_WIDTH, width)
        self.edge_embedding = Embedding(0.0, LONGEST, distance_bins, middle, width)
        self.angle_embedding = Embedding(-1.0, 1.0, angle_bins, middle, width)
        self.alignn_layers = nn.ModuleList([ALIGNNConv(width) for _ in range(alignn_layers)])
        self.gcn_layers = nn.ModuleList([EdgeGatedGraphConv(width) for _ in range(gcn_layers)])
        self.fc = nn.Linear(width, outputs)
        # Not of the state: it is no weight, and checkpoints have none.
        self.register_buffer("element_table", _element_table(), persistent=False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ALIGNN:
        """Make the network that these tensors belong to, ready for inference.

        Raises:
            ValueError: if they are no weights of such a network.
        """
        try:
            middle, distance_bins = state["edge_embedding.1.layer.0.weight"].shape
            angle_bins = state["angle_embedding.1.layer.0.weight"].shape[1]
            outputs, width = state["fc.weight"].shape
            layers = {tuple(name.split(".")[:2]) for name in state}
            alignn_layers, gcn_layers = (
                len([layer for layer in layers if layer[0] == name])
                for name in ("alignn_layers", "gcn_layers")
            )
            network = cls(
                alignn_layers, gcn_layers, distance_bins, angle_bins, middle, width, outputs
            )
            network.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"the tensors are not those of a classic ALIGNN: {reason}") from error
        return network.eval().requires_grad_(False)

    def features(self, graph: GraphBatch) -> Tensor:
        """Average the atoms after the last layer over each crystal; (B, width)."""
        dtype = self.fc.weight.dtype
        # What layers add to stays in this type, also where autocast computes in a shorter one.
        x = self.atom_embedding(self.element_table[graph.elements].to(dtype), graph.sizes).to(dtype)
        y = self.edge_embedding(graph.lengths.to(dtype), graph.bonds.sizes).to(dtype)
        last = len(self.alignn_layers) - 1
        if self.alignn_layers:
            z = self.angle_embedding(graph.cosines.to(dtype), graph.pairs.sizes).to(dtype)
        for k, alignn in enumerate(self.alignn_layers):
            x, y, z = alignn(x, y, z, graph, k < last)
        last = len(self.gcn_layers) - 1
        for k, gcn in enumerate(self.gcn_layers):
            x, y = gcn(x, y, graph.bonds, graph.sizes, k < last)
        sums = x.new_zeros(graph.structures, x.shape[1], dtype=dtype)
        sums = sums.index_add(0, graph.structure, x.to(dtype) * graph.sizes[:, None])
        atoms = graph.sizes.new_zeros(graph.structures).index_add_(0, graph.structure, graph.sizes)
        return sums / atoms[:, None]

    def forward(self, graph: GraphBatch) -> Tensor:
        """Predict energies (B,) in eV/atom; (B, outputs) if there are several outputs."""
        out: Tensor = self.fc(self.features(graph))
        return out.squeeze(1)


def _element_table() -> Tensor:
    """Read CGCNN's description of each element by atomic number, (119, 92).

    Like the original, elements beyond fermium get fermium's.
    """
    import json
    from importlib.resources import files

    from crysmetrics.io.elements import MAX_ATOMIC_NUMBER

    text = files("crysmetrics.features.alignn").joinpath("elements.json").read_text()
    ones: dict[str, list[int]] = json.loads(text)["ones"]
    table = torch.zeros(MAX_ATOMIC_NUMBER + 1, ELEMENT_WIDTH)
    for number in range(1, MAX_ATOMIC_NUMBER + 1):
        table[number, ones.get(str(number), ones["100"])] = 1
    return table
