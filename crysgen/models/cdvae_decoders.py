"""Decoders of CDVAE: scores of positions and chances of types of noisy crystals, given z.

They stand over the backbones that encoders stand over, but for DimeNet++.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from crysgen.matrices import determinants
from crysgen.models.cdvae_inputs import invariant_cells, log_sizes, perceptron
from crysgen.models.fields import build_fields
from crysgen.networks.base import build_network, check_settings
from crysgen.networks.cspnet import CSPNet, combine_rows
from crysgen.networks.embedding import MAX_ATOMIC_NUMBER, AtomEmbedding, step_features


class Denoised(NamedTuple):
    """Predictions of the decoder.

    Attributes:
        moves: (B, N, 3) Cartesian, σ_X times the score s_X: toward the clean positions in units of
            σ_X, turning with the crystal.
        logits: (B, N, 118) of atomic numbers from 1 on, invariant.
    """

    moves: Tensor
    logits: Tensor


class NoisyDecoder(nn.Module, ABC):
    """PGNN_DEC: noisy crystals and z to `Denoised`."""

    def search(self, frac_coords: Tensor, lattices: Tensor, mask: Tensor) -> Any:
        """Search the neighbours that `forward` wants, without gradients."""
        return ()

    @abstractmethod
    def forward(
        self,
        latents: Tensor,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        lattices: Tensor,
        share: Tensor | None,
        neighbours: Any,
    ) -> Denoised:
        """Predict scores and types.

        Args:
            latents: (B, D) z.
            atomic_numbers: (B, N) noisy; 0 is padding.
            frac_coords: (B, N, 3) noisy.
            lattices: (B, 3, 3) rows in Å.
            share: (B,) the level between 0 and 1; None if it is not told.
            neighbours: of `search`.
        """


class _Conditioned(nn.Module):
    """h_0 = MLP(e_a || z), and the level and number of atoms where they are told."""

    def __init__(self, channels: int, latent_channels: int, told_level: bool) -> None:
        super().__init__()
        self.atoms = nn.Linear(channels, channels)
        self.latents = nn.Linear(latent_channels, channels, bias=False)
        self.level = nn.Linear(channels, channels, bias=False) if told_level else None
        self.out = nn.Linear(channels, channels)

    def forward(self, embedded: Tensor, latents: Tensor, share: Tensor | None) -> Tensor:
        about = self.latents(latents)
        if self.level is not None and share is not None:
            about = about + self.level(step_features(share, embedded.shape[-1]))
        nodes: Tensor = self.out(silu(self.atoms(embedded) + about[:, None]))
        return nodes


class CSPDecoder(NoisyDecoder):
    """CSPNet, whose moves are sums of lattice vectors with invariant weights.

    Args:
        settings: keyword arguments of `CSPNet`.
        latent_channels: D.
        told_level: see `CDVAEConfig`.
    """

    def __init__(
        self, settings: Mapping[str, Any], latent_channels: int = 1, told_level: bool = False
    ) -> None:
        super().__init__()
        check_settings(CSPNet, settings)
        self.network = CSPNet(**settings)
        channels = self.network.channels
        self.embedding = AtomEmbedding(channels, step=False)
        self.size = nn.Linear(1, channels)
        self.first = _Conditioned(channels, latent_channels, told_level)
        self.positions = perceptron(channels, channels, 3)
        self.types = perceptron(channels, channels, MAX_ATOMIC_NUMBER)

    def forward(
        self,
        latents: Tensor,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        lattices: Tensor,
        share: Tensor | None,
        neighbours: Any,
    ) -> Denoised:
        """See `NoisyDecoder`."""
        mask = atomic_numbers > 0
        nodes = self.embedding(atomic_numbers, lattices[:, 0, 0])
        nodes = nodes + self.size(log_sizes(mask, nodes))
        nodes = self.first(nodes, latents, share)
        nodes = self.network(nodes, frac_coords, invariant_cells(lattices, mask), mask, lattices)
        edge = determinants(lattices).abs().pow(1 / 3)[:, None, None]
        moves = combine_rows(self.positions(nodes).to(lattices), lattices / edge)
        return Denoised(moves, self.types(nodes).to(lattices))


class NetworkDecoder(NoisyDecoder):
    """A backbone over nearest neighbours, with the fields of GemsDiff as scores.

    Args:
        name: of the backbone.
        settings: its keyword arguments.
        latent_channels: D.
        told_level: see `CDVAEConfig`.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        latent_channels: int = 1,
        told_level: bool = False,
    ) -> None:
        super().__init__()
        self.network = build_network(name, settings)
        self.fields = build_fields(self.network, {})
        channels = self.network.channels
        self.first = _Conditioned(channels, latent_channels, told_level)
        self.types = perceptron(channels, channels, MAX_ATOMIC_NUMBER)

    def search(self, frac_coords: Tensor, lattices: Tensor, mask: Tensor) -> Any:
        """See `NoisyDecoder`."""
        return self.network.search(frac_coords, lattices, mask)

    def forward(
        self,
        latents: Tensor,
        atomic_numbers: Tensor,
        frac_coords: Tensor,
        lattices: Tensor,
        share: Tensor | None,
        neighbours: Any,
    ) -> Denoised:
        """See `NoisyDecoder`."""
        mask = atomic_numbers > 0
        step = torch.zeros_like(lattices[:, 0, 0]) if share is None else share
        embedded = self.network.embedding(atomic_numbers, step)  # type: ignore[operator]
        nodes = self.first(embedded, latents, share)
        features = self.network(atomic_numbers, lattices, step, neighbours, embedded=nodes)
        moved = self.fields(features, lattices, mask).displacement
        with torch.autocast(lattices.device.type, enabled=False):
            edge = (determinants(lattices).abs() / mask.sum(1)).pow(1 / 3)[:, None, None]
            moves = combine_rows(moved.to(lattices), lattices / edge)
        return Denoised(moves, self.types(features.nodes).to(lattices))


DECODERS: dict[str, Callable[..., NoisyDecoder]] = {
    "cspnet": CSPDecoder,
    "pairformer": lambda *args: NetworkDecoder("pairformer", *args),
    "gemsnet": lambda *args: NetworkDecoder("gemsnet", *args),
}
"""Decoders by name, from settings, D and whether the level is told."""
